"""What every room stands on: the cache folder, and errors that a user reads as one line. Free of torch."""

import json
import math
import os
import reprlib
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple, Union

__all__ = ['UserError', 'blame', 'cache_dir', 'check_ranges', 'one_line', 'quoted', 'read_bytes', 'read_json']

_LARGEST_INT = 2**32 - 1  # of numbers of things
_QUOTES = reprlib.Repr()  # of values that may be nested or long without end
_QUOTES.maxlevel = 3
_QUOTES.maxstring = _QUOTES.maxother = 300


class UserError(RuntimeError):
    """An error whose message tells a user what is wrong and what to do, as a ValueError or OSError of ours does."""


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


def cache_dir() -> Path:
    """Folder that the environment variable GKGNET_TIMM_CACHE names, by default ~/.cache/gkgnet_timm."""
    return Path(os.environ.get('GKGNET_TIMM_CACHE') or '~/.cache/gkgnet_timm').expanduser()
