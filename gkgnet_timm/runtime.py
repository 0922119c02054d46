"""What every room stands on: whole files, the cache folder, and errors of one line. Free of torch."""

import json
import math
import multiprocessing
import os
import re
import reprlib
import shlex
import shutil
import stat
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Optional, Tuple, Union, get_args, get_origin

__all__ = [
    'FileWarning',
    'UserError',
    'blame',
    'cache_dir',
    'check_ranges',
    'clear_drafts',
    'command_line',
    'default_workers',
    'fits',
    'in_words',
    'is_url',
    'locate',
    'locked',
    'moved',
    'one_line',
    'quoted',
    'read_bytes',
    'read_json',
    'replacing',
    'same_file',
    'start_slowly',
]

DRAFT = '.gkgnet_timm-draft-'
OLD = 24 * 3600  # seconds after which nobody works on a draft any more
_LARGEST_INT = 2**32 - 1  # of numbers of things
_QUOTES = reprlib.Repr()  # of values that may be nested or long without end
_QUOTES.maxlevel = 3
_QUOTES.maxstring = _QUOTES.maxother = 300


class UserError(RuntimeError):
    """An error whose message tells a user what is wrong and what to do, as a ValueError or OSError of ours does."""


class FileWarning(UserWarning):
    """A file can be read, but probably not as it was meant. Commands print it in a line."""


def command_line(command: str, *arguments: Any) -> str:
    """A command line for the user to type, in the form of the one that runs: scripts, the program, or the module."""
    running, scripts = Path(sys.argv[0]), dict(train='train_multilabel.py', validate='validate.py')
    words = ['python', '-m', 'gkgnet_timm', command]
    if running.stem == 'gkgnet-timm':
        words = ['gkgnet-timm', command]
    elif running.name in scripts.values() and command in scripts:
        words = ['python', str(running.with_name(scripts[command]))]
    return shlex.join([*words, *map(str, arguments)])


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an error without line breaks, cut to a number of characters."""
    return ' '.join(str(error).split())[:limit] or type(error).__name__


def quoted(value: Any) -> str:
    """A value from a file as Python writes it, so that 3 and '3' differ, cut where it is long."""
    return _QUOTES.repr(value)


def read_bytes(path: Union[str, Path], limit: int) -> bytes:
    """Read a whole file, unless it has no end.

    Raises:
        OSError: If it does not exist or cannot be read.
        ValueError: If it is not a regular file, such as a pipe, has more bytes than the limit, or begins with zeros.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f'{str(path)!r} is not a regular file.')
    if status.st_size > limit:
        raise ValueError(f'{str(path)!r} has {status.st_size:,} bytes, expected at most {limit:,}.')
    with open(path, 'rb') as file:
        start = file.read(1 << 12)
        if len(start) == 1 << 12 and not start.strip(b'\0'):  # so may be all the rest, which takes no room on the disk
            raise ValueError(f'{str(path)!r} begins with zeros, as a damaged download does.')
        file.seek(0)
        return file.read()


def read_json(path: Union[str, Path], limit: int = 1 << 24, what: str = 'a JSON file') -> Any:
    """Read a JSON file of any origin, in UTF-8, UTF-16 or UTF-32, with a byte order mark or without.

    Args:
        path: File.
        limit: Largest size in bytes.
        what: What it should be, for messages.

    Raises:
        OSError: If it does not exist or cannot be read.
        ValueError: If it is not JSON, is nested too deep, is not a regular file, or has more bytes than the limit.
    """
    data = read_bytes(path, limit)
    try:
        return json.loads(data)
    except RecursionError:
        problem = 'it is nested too deep'
    except MemoryError:
        problem = 'it does not fit into memory'
    except ValueError as error:
        problem = one_line(error)
    raise ValueError(f'{str(path)!r} is not {what}: {problem}.')


@contextmanager
def blame(flags: str) -> Iterator[None]:
    """Turn what libraries raise for wrong values of flags into a ValueError that names the flags."""
    try:
        yield
    except (TypeError, KeyError, IndexError, AssertionError, RuntimeError, ArithmeticError, ValueError) as error:
        reason = one_line(error, 200) if str(error).strip() else 'a value is out of range'
        raise ValueError(f'{flags}: {reason} ({type(error).__name__}).') from error


def check_ranges(values: Any, ranges: Dict[str, Tuple[float, float]]) -> None:
    """Raise a ValueError that names the flag of the first attribute out of its closed range, nan included.

    Attributes that are None or missing pass.
    """
    for name, (low, high) in ranges.items():
        value = getattr(values, name, None)
        if isinstance(value, int) and value > _LARGEST_INT:
            high = min(high, _LARGEST_INT)
        if value is not None and not low <= value <= high:
            expected = f'at least {low}' if high == math.inf else f'from {low} to {high}'
            raise ValueError(f'--{name.replace("_", "-")} must be {expected}, got {quoted(value)}.')


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type hint: numbers are finite, an int is a float, a list is a tuple of any length."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind is Union:
        return any(fits(value, part) for part in parts)
    if kind in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(item, parts[0]) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if kind in (int, float):
        number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        return number or kind is float and isinstance(value, float) and math.isfinite(value)
    return value is None if kind is type(None) else isinstance(value, kind)


def in_words(hint: Any) -> str:
    """What a value that `fits` a type hint is, for messages."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Union:
        return ' or '.join(map(in_words, parts))
    if kind in (list, tuple):
        return f'a list, each {in_words(parts[0])}'
    words = {bool: 'true or false', int: 'an integer', float: 'a finite number', str: 'text', dict: 'a mapping'}
    return words.get(kind, 'nothing' if kind is type(None) else 'of any type')


def is_url(path: str) -> bool:
    """Whether a path is a URL as fsspec has them, such as s3://bucket/a.jpg. That of Windows, C:\\a.jpg, is not one."""
    return re.match(r'(?:[A-Za-z]\w+::)*[A-Za-z][A-Za-z\d+.-]+://', path) is not None


def same_file(path: str) -> str:
    """What paths of one file have in common. `./a.jpg` and `a.jpg` are the same file."""
    return path if is_url(path) else os.path.abspath(path)


def locate(name: str, folder: Optional[str]) -> Optional[str]:
    """Absolute path of what is named from a folder or else from the current one, None if nothing is there."""
    found = next((path for path in (os.path.join(folder or '', name), name) if os.path.exists(path)), None)
    return None if found is None else os.path.abspath(found)


def moved(path: str, old: Optional[str], new: Optional[str]) -> str:
    """Where an absolute path is after the folder that it was in has moved; any other path as it is."""
    if not old or not new or not os.path.isabs(path):
        return path
    inside = os.path.relpath(path, old)
    return path if inside.split(os.sep)[0] == os.pardir else os.path.abspath(os.path.join(new, inside))


def cache_dir() -> Path:
    """Folder that the environment variable GKGNET_TIMM_CACHE names, by default ~/.cache/gkgnet_timm."""
    return Path(os.environ.get('GKGNET_TIMM_CACHE') or '~/.cache/gkgnet_timm').expanduser()


def clear_drafts(folder: Union[str, Path], prefix: str = DRAFT, age: float = OLD) -> None:
    """Remove the drafts, files or folders, that a killed run has left, if they are older than some seconds."""
    for draft in Path(folder).glob(f'{prefix}*'):
        try:
            if time.time() - draft.lstat().st_mtime < age:
                continue
            if draft.is_dir() and not draft.is_symlink():
                shutil.rmtree(draft)
            else:
                draft.unlink()
        except OSError:  # of another user, or cleared by another process: it harms nobody
            continue


@contextmanager
def replacing(path: Union[str, Path], mode: str = 'w', **kwargs: Any) -> Iterator[IO]:
    """Open a file to write, as `open` does, that takes the place of the previous one when it is complete.

    Text is in UTF-8, whatever the locale. If writing fails, the previous file stays. What is no regular file, such as
    /dev/stdout, is written to directly.

    Raises:
        OSError: If the file cannot be written. Names it.
    """
    if 'b' not in mode:
        kwargs.setdefault('encoding', 'utf-8')
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():
        with open(path, mode, **kwargs) as file:
            yield file
        return
    draft = target.with_name(f'{DRAFT}{uuid.uuid4().hex}')
    clear_drafts(target.parent)
    try:
        with open(draft, mode.replace('w', 'x'), **kwargs) as file:
            yield file
        if target.exists():
            shutil.copymode(target, draft)
        os.replace(draft, target)
    except OSError as error:
        kept = ', the previous one stays' if target.is_file() else ''
        raise OSError(f'Cannot write {str(path)!r}{kept}: {error.strerror or one_line(error)}.') from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def locked(folder: Union[str, Path], work: str, file: str = '') -> Iterator[None]:
    """Create a folder if necessary and keep other processes from the same work in it. A kill ends the lock.

    Args:
        folder: The folder.
        work: Name of the work.
        file: Keep them from this file in the folder only.

    Raises:
        ValueError: If another process is at work there.
    """
    from filelock import FileLock, Timeout  # not before --help is answered

    made = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder, f'.{file}.{work}.lock' if file else f'.{work}.lock'), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        place = f'on {str(Path(folder, file))!r}' if file else f'in {str(folder)!r}'
        remedy = f'wait for its end, or give another {"file" if file else "folder"}'
        raise ValueError(f'Another {work} is at work {place}: {remedy}.') from None
    try:
        yield
    finally:
        with suppress(PermissionError):  # of Windows, for a file that is open
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # the first that is not empty ends it
            for path in made:
                path.rmdir()


def start_slowly() -> bool:
    """Whether processes start with a new interpreter."""
    # asked for plainly, the default would be chosen for good, and no program could choose another one
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return method != 'fork'


def default_workers() -> int:
    """Processes that load images for a program that does not say how many.

    A new interpreter runs the program again, unless that is in `if __name__ == '__main__':`, and finds no class of a
    notebook: programs that may start some say so.
    """
    return 0 if start_slowly() else min(4, os.cpu_count() or 1)
