"""The rule for file names in annotations, the same for all readers."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple, Union

from ...runtime import is_url, quoted
from ..images import EXTENSIONS

__all__ = ['ImageFolder', 'list_folder']

_PLAIN = re.compile(r'\w[\w.-]*', re.ASCII)  # a name that is its own path


def list_folder(path: Union[str, Path]) -> Tuple[Set[str], Set[str]]:
    """Names of the files in a folder, and of the folders; none if it does not exist."""
    files: Set[str] = set()
    folders: Set[str] = set()
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).add(entry.name)
    return files, folders


def _form(name: str) -> str:
    """A name in the one of its Unicode forms that all of them share."""
    return unicodedata.normalize('NFC', name)


def _stem(name: str) -> str:
    return _form(name.rpartition('.')[0] or name)


class ImageFolder:
    """Finds image files by the names that annotations have for them. Each folder is listed once.

    A name is a path from the image folder, or an absolute one that leads into it. If there is no such file, back
    slashes are taken as slashes, other Unicode forms of the name are tried, and at last a name without extension is
    that of the only image file of this name.

    Args:
        root: The image folder.

    Attributes:
        extended: Files by the names without extension that they were found by.
    """

    def __init__(self, root: Union[str, Path]):
        self.root: Path = Path(root)
        self.extended: Dict[str, str] = {}
        self._tops = tuple(dict.fromkeys((os.path.abspath(root), os.path.realpath(root))))
        self._folders: Dict[str, Optional[str]] = {'': ''}
        self._listed: Dict[str, Tuple[Set[str], Set[str]]] = {}
        self._by_key: Dict[tuple, Dict[str, List[str]]] = {}

    def place(self, name: Any) -> str:
        """Return the path of a name from the image folder, with slashes, without looking for the file.

        Raises:
            ValueError: If it is a URL, or not a path inside the folder.
        """
        if isinstance(name, str) and _PLAIN.fullmatch(name):
            return name
        if isinstance(name, str) and is_url(name):
            raise ValueError(f'{quoted(name)} is a URL: download the images first, and give the names of the files.')
        path = self._inside(name) if isinstance(name, str) else None
        if path is None or ('\\' in path and self._inside(name.replace('\\', '/')) is None):
            raise ValueError(
                f'{quoted(name)} is not a path inside the image folder {str(self.root)!r}. Give one that starts there, '
                'or another --data-dir.'
            )
        return path

    def _inside(self, name: str) -> Optional[str]:
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            return None
        if not name or '\0' in name or (os.name != 'nt' and re.match('[A-Za-z]:', name)):  # a drive of Windows
            return None
        paths = [os.path.join(top, name) for top in self._tops]
        if os.path.isabs(name):
            paths.append(os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name)))
        for path in map(os.path.normpath, paths):
            for top in self._tops:
                start = os.path.join(top, '')
                if path.startswith(start):
                    return path[len(start) :].replace(os.sep, '/')
        return None

    def find(self, name: Any) -> Optional[str]:
        """Return the path of the file from the image folder, None if there is none.

        Raises:
            ValueError: If the name is not one inside the folder, or has no extension and there are several such files.
        """
        path = self.place(name)
        for place in dict.fromkeys((path, self.place(path.replace('\\', '/')))):
            folder, _, tail = place.rpartition('/')
            folder = self._find_folder(folder)
            if folder is not None and (found := self._find_in(folder, tail)):
                return f'{folder}/{found}' if folder else found
        return None

    def similar(self, path: str) -> Optional[str]:
        """Return a file whose name differs in case or extension only."""
        folder, _, tail = path.replace('\\', '/').rpartition('/')
        folder = self._find_folder(folder)
        names = [] if folder is None else self._names_by('similar', folder).get(_stem(tail).casefold(), [])
        return min(names, key=lambda name: (name.casefold() != tail.casefold(), name), default=None)

    def _find_folder(self, path: str) -> Optional[str]:
        if path not in self._folders:
            found = path
            if not os.path.isdir(self.root / path):
                found = ''
                for name in path.split('/'):
                    forms = self._names_by('folder', found).get(_form(name), [])
                    if not forms:
                        found = None
                        break
                    found = f'{found}/{forms[0]}' if found else forms[0]
            self._folders[path] = found
        return self._folders[path]

    def _find_in(self, folder: str, name: str) -> Optional[str]:
        if name in self._list(folder)[0]:
            return name
        if forms := self._names_by('form', folder).get(_form(name)):
            return forms[0]
        if name.lower().endswith(EXTENSIONS):
            return None
        found = self._names_by('stem', folder).get(_form(name), [])
        if len(found) > 1:
            raise ValueError(
                f'{quoted(name)} has no extension and may be any of {", ".join(map(repr, sorted(found)))}.'
            )
        if found:
            self.extended[name] = found[0]
        return found[0] if found else None

    def _list(self, folder: str) -> Tuple[Set[str], Set[str]]:
        if folder not in self._listed:
            self._listed[folder] = list_folder(self.root / folder)
        return self._listed[folder]

    def _names_by(self, key: str, folder: str) -> Dict[str, List[str]]:
        """Names in a folder by a key.

        Files by their Unicode 'form', and each 'folder' by its own. Images by 'stem', or in any case by 'similar'.
        """
        if (key, folder) not in self._by_key:
            names: Dict[str, List[str]] = {}
            for name in sorted(self._list(folder)[key == 'folder']):
                if key in ('form', 'folder'):
                    names.setdefault(_form(name), []).append(name)
                elif name.lower().endswith(EXTENSIONS):
                    stem = _stem(name)
                    names.setdefault(stem if key == 'stem' else stem.casefold(), []).append(name)
            self._by_key[key, folder] = names
        return self._by_key[key, folder]
