"""Several models to evaluate at once: those of a wildcard or a list, or the checkpoints of a folder."""

import argparse
import glob
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import timm
from timm.utils import natural_key

__all__ = ['Job', 'list_jobs']

CHECKPOINTS = ('*.pth.tar', '*.pth', '*.pt', '*.safetensors')


class Job(NamedTuple):
    """Flags to add for one of several models, and other names of the same file."""

    flags: List[str]
    also: List[str] = []


def _list_checkpoints(folder: str) -> List[Job]:
    """List the checkpoints of a folder. A file with several names, as `model_best.pth.tar` is one, is listed once."""
    patterns = [os.path.join(glob.escape(folder), pattern) for pattern in CHECKPOINTS]
    names: Dict[Tuple[int, int], List[str]] = {}
    for path in sorted({path for pattern in patterns for path in glob.glob(pattern)}, key=natural_key):
        status = os.stat(path)
        names.setdefault((status.st_dev, status.st_ino), []).append(path)
    return [Job(['--checkpoint', path], [os.path.basename(other) for other in also]) for path, *also in names.values()]


def list_jobs(args: argparse.Namespace) -> List[Job]:
    """List several models: those of a wildcard or list, or the checkpoints of a folder.

    For one model there are no flags to add.

    Raises:
        FileNotFoundError: If the list of models does not exist.
        ValueError: If there is nothing to evaluate.
    """
    if args.scores_in:
        return [Job([])]
    if args.checkpoint:
        if not Path(args.checkpoint).is_dir():
            return [Job([])]
        jobs = _list_checkpoints(args.checkpoint)
    elif args.model.endswith('.txt'):
        if not Path(args.model).is_file():
            raise FileNotFoundError(f'List of models {args.model!r} does not exist.')
        jobs = [Job(['--model', name]) for name in Path(args.model).read_text(encoding='utf-8-sig').split()]
    elif any(c in args.model for c in '*?['):
        jobs = [Job(['--model', name]) for name in timm.list_pretrained(args.model)]
    else:
        return [Job([])]
    if not jobs:
        raise ValueError(f'{args.checkpoint or args.model!r} has no checkpoint or pretrained model to evaluate.')
    return jobs
