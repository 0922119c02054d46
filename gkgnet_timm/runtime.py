"""What every room stands on: the cache folder, and errors that a user reads as one line. Free of torch."""

import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

__all__ = ['FileWarning', 'UserError', 'blame', 'cache_dir', 'check_ranges', 'one_line']


class UserError(RuntimeError):
    """An error whose message tells a user what is wrong and what to do, as a ValueError or OSError of ours does."""


class FileWarning(UserWarning):
    """A file can be read, but probably not as it was meant. Commands print it in a line."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an error without line breaks, cut to a number of characters."""
    return ' '.join(str(error).split())[:limit] or type(error).__name__


@contextmanager
def blame(flags: str) -> Iterator[None]:
    """Turn what libraries raise for wrong values of flags into a ValueError that names the flags."""
    try:
        yield
    except (TypeError, KeyError, IndexError, AssertionError, RuntimeError, ZeroDivisionError, ValueError) as error:
        reason = one_line(error, 200) if str(error).strip() else 'a value is out of range'
        raise ValueError(f'{flags}: {reason} ({type(error).__name__}).') from error


def check_ranges(values: Any, ranges: Dict[str, Tuple[float, float]]) -> None:
    """Raise a ValueError that names the flag of the first attribute out of its closed range, nan included.

    Attributes that are None or missing pass.
    """
    for name, (low, high) in ranges.items():
        value = getattr(values, name, None)
        if value is not None and not low <= value <= high:
            expected = f'at least {low}' if high == math.inf else f'from {low} to {high}'
            raise ValueError(f'--{name.replace("_", "-")} must be {expected}, got {value}.')


def cache_dir() -> Path:
    """Folder that the environment variable GKGNET_TIMM_CACHE names, by default ~/.cache/gkgnet_timm."""
    return Path(os.environ.get('GKGNET_TIMM_CACHE') or '~/.cache/gkgnet_timm').expanduser()
