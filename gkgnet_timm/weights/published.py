"""Install weights that their authors publish: downloaded, checked and converted once."""

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, NamedTuple, Optional, Union
from urllib.error import URLError

import torch
from filelock import FileLock, Timeout

import timm
from timm.models import PretrainedCfg

from ..class_names import VERIFIED, read_class_map
from ..runtime import DRAFT, clear_drafts, one_line, read_json, replacing
from .convert import convert
from .drive import download
from .file import find_problem, sha256
from .folder import CONFIG, WEIGHTS
from .source import GKGNET_FILE, MODULES, VIG_FILES, NotDownloaded, drive_endpoint, installed_file

__all__ = ['install_published', 'remove', 'tag_of', 'verify']


class Source(NamedTuple):
    """Where a file that has no plain address is.

    Attributes:
        file_id: On Google Drive.
        sha256: Of the file, None as long as nobody has contributed it.
    """

    file_id: str
    sha256: Optional[str] = None


SOURCES = {GKGNET_FILE: Source('1TB_UqqFvpQ2bvy_qau0aKP6GoK9Xlix_')}


def tag_of(name: str) -> PretrainedCfg:
    """Return the cfg of pretrained weights; of a trunk that is trained as Pyramid ViG, the cfg of that.

    Raises:
        ValueError: If there are no such weights. Names those that there are.
    """
    names = timm.list_models(pretrained=True, module=MODULES)
    known = names + timm.list_models(module=MODULES)  # without a tag it is the default one
    if name not in known:
        raise ValueError(f'No pretrained weights are called {name!r}, but {", ".join(names)}.')
    cfg = timm.get_pretrained_cfg(name)
    file = installed_file(cfg)
    trunks = (timm.get_pretrained_cfg(other) for other in VIG_FILES)
    return next((trunk for trunk in trunks if installed_file(trunk) == file), cfg)


def _name(cfg: PretrainedCfg) -> str:
    return f'{cfg.architecture}.{cfg.tag}'


@contextmanager
def _alone(cfg: PretrainedCfg) -> Iterator[Path]:
    """Give the place of the installed weights of a tag, to one process at a time."""
    folder = installed_file(cfg).parent
    lock = FileLock(folder.parent / f'.{folder.name}.lock')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        print(f'Waiting for another process that is installing {_name(cfg)}.', file=sys.stderr)
        lock.acquire()
    except OSError as error:
        place = f'{str(folder.parent)!r} ({error.strerror})'
        raise OSError(f'Cannot write to {place}. GKGNET_TIMM_CACHE sets another place for weights.') from error
    try:
        clear_drafts(folder.parent, f'{DRAFT}{folder.name}', age=0)  # of a process that was killed
        yield folder / WEIGHTS
    finally:
        lock.release()


def _download(cfg: PretrainedCfg, folder: Path) -> Path:
    source = SOURCES.get(cfg.url)
    if source:
        file = download(source.file_id, folder.parent, folder.name)
    else:
        file = folder.with_name(f'{folder.name}.part')
        try:
            progress = sys.stderr is not None and sys.stderr.isatty()
            torch.hub.download_url_to_file(cfg.url, str(file), progress=progress)
        except URLError as error:
            raise NotDownloaded(f'{cfg.url} ({one_line(error)})') from error
    problem = find_problem(file)
    if not problem and source and source.sha256 not in (None, sha256(file)):
        problem = 'not the file that the authors published: its SHA-256 differs'
    if problem:
        file.unlink()
        raise ValueError(f'What {_origin(cfg)} sent is {problem}. It was removed; the next try downloads it again.')
    return file


def _origin(cfg: PretrainedCfg) -> str:
    return drive_endpoint() if cfg.url in SOURCES else cfg.url


def _check_order(cfg: PretrainedCfg, class_order: Union[str, Path]) -> None:
    """Raise a ValueError unless a file has the class names of a tag, in whatever order."""
    names, known = read_class_map(class_order), cfg.label_names or ()
    others = sorted(set(names).symmetric_difference(known))
    if others:
        raise ValueError(
            f'--class-order {str(class_order)!r} does not have the class names of {_name(cfg)}: '
            f'{", ".join(map(repr, others[:5]))} are in one of them only.'
            if known
            else f'--class-order: {_name(cfg)} has no class names.'
        )


def install_published(cfg: PretrainedCfg, *, class_order: Union[str, Path, None] = None) -> Path:
    """Download the weights of a tag from their authors, convert them, and keep them for all later models.

    Of several processes one does the work, the others wait and find it done.

    Args:
        cfg: The registered cfg of a tag, see `tag_of`.
        class_order: File of the class names in the order of the outputs, as `class-order` writes it.

    Returns:
        The installed file.

    Raises:
        NotDownloaded: If it cannot be downloaded. Says why.
        OSError: If it cannot be written.
        ValueError: If what was downloaded is not the weights, or `class_order` is not of their classes.
    """
    if class_order:
        _check_order(cfg, class_order)
    with _alone(cfg) as target:
        if target.is_file():
            if class_order:
                _confirm(cfg, target, class_order)
            return target
        file = _download(cfg, target.parent)
        try:
            _convert(cfg, file, class_order)
        except ValueError as error:
            file.unlink()
            reason = f'not the weights of {_name(cfg)} ({one_line(error)})'
            raise ValueError(f'What {_origin(cfg)} sent is {reason}. It was removed.') from error
        file.unlink()
    licence = 'for non-commercial use only' if cfg.license == 'other' else cfg.license
    print(f'{_name(cfg)}: weights of {cfg.origin_url}, {licence}, installed as {target}.', file=sys.stderr)
    return target


def _convert(cfg: PretrainedCfg, file: Path, class_order: Union[str, Path, None]) -> None:
    """Install a file, which is refused unless it is the weights of the tag."""
    folder = installed_file(cfg).parent
    with TemporaryDirectory(prefix=f'{DRAFT}{folder.name}', dir=folder.parent) as draft:
        convert(file, draft, model=_name(cfg), class_order=class_order, install=True)


def _confirm(cfg: PretrainedCfg, target: Path, class_order: Union[str, Path]) -> None:
    """Bring the classes of installed weights into the order that the names of their tag are in."""
    record, config = verify(cfg), target.with_name(CONFIG)
    if VERIFIED in (read_json(config)['pretrained_cfg'].get('notes') or ()):
        raise ValueError(f'The order of the classes of {_name(cfg)} has been confirmed: weights remove it first.')
    prefix = f'{DRAFT}{target.parent.name}'
    with TemporaryDirectory(prefix=prefix, dir=target.parent.parent) as draft:
        _convert(cfg, Path(shutil.copy(target, draft)), class_order)
    content = read_json(config)
    content['converted_from'] = dict(record, written=content['converted_from']['written'])
    with replacing(config) as file:
        file.write(json.dumps(content, indent=2))


def remove(cfg: PretrainedCfg) -> Path:
    """Delete the installed weights of a tag, and parts of their download.

    Returns:
        The folder that they were in.

    Raises:
        FileNotFoundError: If nothing of them is there.
    """
    with _alone(cfg) as target:
        folder = target.parent
        parts = list(folder.parent.glob(f'{folder.name}*.part*'))
        if not folder.is_dir() and not parts:
            raise FileNotFoundError(f'Weights of {_name(cfg)} are not installed.')
        for part in parts:
            part.unlink()
        target.unlink(missing_ok=True)  # first: it alone would be taken for installed
        if folder.is_dir():
            shutil.rmtree(folder)
    return folder


def verify(cfg: PretrainedCfg) -> Dict[str, Any]:
    """Compare the installed weights of a tag with what was recorded when they were written.

    Returns:
        What `convert` recorded: the file that they are from, its SHA-256, and theirs as `written`.

    Raises:
        FileNotFoundError: If the weights, or a record of them, are not there.
        ValueError: If they are others.
    """
    target = installed_file(cfg)
    if not target.is_file():
        raise FileNotFoundError(f'Weights of {_name(cfg)} are not installed: weights install {_name(cfg)} does it.')
    config = target.with_name(CONFIG)
    content = read_json(config) if config.is_file() else None
    record = content.get('converted_from') if isinstance(content, dict) else None
    if not isinstance(record, dict) or not isinstance(record.get('written'), str):
        raise FileNotFoundError(f'{str(target)!r} has no record of its SHA-256 beside it: remove and install it.')
    expected = SOURCES[cfg.url].sha256 if cfg.url in SOURCES else None
    if record['written'] != sha256(target) or expected not in (None, record.get('sha256')):
        raise ValueError(f'{str(target)!r} is not what was installed, by its SHA-256: remove and install it.')
    return record
