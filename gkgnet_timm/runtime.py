"""The folder that the package keeps files in between runs."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

__all__ = ['blame', 'cache_dir']


@contextmanager
def blame(flags: str) -> Iterator[None]:
    """Turn what the libraries raise for wrong values of flags into a ValueError that names the flags."""
    try:
        yield
    except (TypeError, KeyError, IndexError, AssertionError, RuntimeError, ZeroDivisionError, ValueError) as error:
        reason = ' '.join(str(error).split())[:200] or 'a value is out of range'
        raise ValueError(f'{flags}: {reason} ({type(error).__name__}).') from error


def cache_dir() -> Path:
    """Folder that the environment variable GKGNET_TIMM_CACHE names, by default ~/.cache/gkgnet_timm."""
    return Path(os.environ.get('GKGNET_TIMM_CACHE') or '~/.cache/gkgnet_timm').expanduser()
