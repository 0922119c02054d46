"""The folder that the package keeps files in between runs."""

import os
from pathlib import Path

__all__ = ['cache_dir']


def cache_dir() -> Path:
    """Folder that the environment variable GKGNET_TIMM_CACHE names, by default ~/.cache/gkgnet_timm."""
    return Path(os.environ.get('GKGNET_TIMM_CACHE') or '~/.cache/gkgnet_timm').expanduser()
