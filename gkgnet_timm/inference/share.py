"""What one of several processes labels: every Nth batch of the images, or every Nth shard."""

import hashlib
import json
from itertools import groupby, islice
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import torch.nn as nn

from ..data.images import drop_duplicates
from ..data.shards import Shard, batches_of
from .kept_rows import Kept, keep_rows, keep_shards
from .prediction_file import parse_csv
from .prediction_run import run_file
from .predictor import image_outputs, sample_outputs

__all__ = ['ImageShare', 'ShardShare']

Outputs = Iterator[Tuple[str, np.ndarray, str]]


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def _shard_of(shards: Sequence[Shard], form: str) -> Callable[[bytes], int]:
    """A function of rows, called for one after the other, that says which shard each is of."""
    place = 0

    def find(record: bytes) -> int:
        nonlocal place
        name = parse_csv(record)[0] if form == 'csv' else json.loads(record)['file']
        while not shards[place].has(name):
            place += 1
        return place

    return find


class ImageShare:
    """Every Nth batch of image files: the batches, on which the rounding of scores may depend, are those of one
    process.

    Args:
        files: Those of all processes.
        batch_size: Images in a batch.
        rank: Which process this is.
        count: Number of processes.
    """

    def __init__(self, files: Sequence[str], batch_size: int, rank: int = 0, count: int = 1):
        self.everything = files
        self.batch_size = batch_size
        self.count = count
        self.files: List[str] = [file for place, file in enumerate(files) if place // batch_size % count == rank]
        self.todo = self.files
        self.total: int = len(self.files)

    @property
    def listed(self) -> Sequence[str]:
        """Names of the images to do, as far as they are known."""
        return self.todo

    def describe(self) -> Dict[str, Any]:
        """Return what decides which images are in the share."""
        return dict(images=_digest(self.everything), batch_size=self.batch_size)

    def keep(self, path: str, form: str) -> Kept:
        """Find the rows of an interrupted run to keep: what else there is, is to do."""
        kept = keep_rows(path, form, self.files, self.batch_size)
        self.todo: List[str] = drop_duplicates(self.files, done=kept.files)
        return kept

    def outputs(self, model: nn.Module, again: Sequence[str], **options: Any) -> Outputs:
        """Iterate over the outputs of files to repeat, and of those to do."""
        return image_outputs(model, [*again, *self.todo], find=False, batch_size=self.batch_size, **options)

    def in_order(self, parts: Sequence[Iterator[bytes]], form: str) -> Iterator[bytes]:
        """Yield the rows that all processes have written, in the order of the images."""
        for batch in range(-(-len(self.everything) // self.batch_size)):
            yield from islice(parts[batch % self.count], self.batch_size)


class ShardShare:
    """Every Nth shard, in batches that end with a shard. Neither images nor their names are listed.

    Args:
        shards: Those of all processes.
        batch_size: Images in a batch.
        rank: Which process this is.
        count: Number of processes.
    """

    total: int = 0  # not known, as the names
    listed: Sequence[str] = ()

    def __init__(self, shards: Sequence[Shard], batch_size: int, rank: int = 0, count: int = 1):
        self.everything = shards
        self.batch_size = batch_size
        self.count = count
        self.shards: Sequence[Shard] = shards[rank::count]
        self.todo = self.shards

    def describe(self) -> Dict[str, Any]:
        """Return what decides which images are in the share."""
        return dict(shards=_digest(shard.name for shard in self.everything), batch_size=self.batch_size)

    def keep(self, path: str, form: str) -> Kept:
        """Find the rows of an interrupted run to keep: those of complete shards. The others are to do."""
        kept, place = keep_shards(path, form, self.shards)
        if kept.rows and not run_file(path).is_file():
            raise ValueError(f'Cannot resume: {str(run_file(path))!r} is missing, which says what made {path!r}.')
        self.todo: Sequence[Shard] = self.shards[place:]
        return kept

    def outputs(self, model: nn.Module, again: Sequence[str], **options: Any) -> Outputs:
        """Iterate over the outputs of the samples to do."""
        return sample_outputs(model, batches_of(self.todo, self.batch_size), **options)

    def in_order(self, parts: Sequence[Iterator[bytes]], form: str) -> Iterator[bytes]:
        """Yield the rows that all processes have written, in the order of the shards."""
        groups = [groupby(part, _shard_of(self.everything[i :: self.count], form)) for i, part in enumerate(parts)]
        for place in range(len(self.everything)):
            _, rows = next(groups[place % self.count])
            yield from rows
