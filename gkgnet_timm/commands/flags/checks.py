"""Checks of flags that need no library: they fail before anything slow is imported."""

import argparse
from math import inf
from pathlib import Path
from typing import Sequence

from ...runtime import is_url
from ...training import config

__all__ = ['RANGES', 'check_outputs']

RANGES = {**config.RANGES, 'num_samples': (1, inf), 'max_images': (1, inf), 'topk': (1, inf), 'crop_pct': (0.01, 1.5)}
RANGES.update(port=(0, 65535), max_upload_mb=(0.001, 10_000), queue=(1, 100_000))


def check_outputs(args: argparse.Namespace, files: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Raise an OSError if flags for output name what cannot become a file, or a folder: now, not after all images."""
    for name in (*files, *folders):
        if getattr(args, name) is None:
            continue
        path = Path(getattr(args, name)).absolute()
        flag = f'--{name.replace("_", "-")}'
        shown = f'{flag} {getattr(args, name)!r}'
        if is_url(getattr(args, name)):
            raise OSError(f'{flag} is a URL: give a local path, and upload what is there afterwards.')
        if name in folders:
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            if not existing.is_dir():
                raise NotADirectoryError(f'{shown}: {existing.name!r} is a file, give a folder.')
        elif path.is_dir():
            raise IsADirectoryError(f'{shown} is a folder, give a file.')
        elif not path.parent.is_dir():
            raise FileNotFoundError(f'{shown}: there is no such folder.')
