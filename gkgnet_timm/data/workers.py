"""Worker processes that live through all epochs, and draw in each what new ones would draw.

A forked worker starts at once. One with a new interpreter, as on Windows, macOS and from Python 3.14, imports all
modules first: seconds.
"""

import random
from typing import Any, Iterator, NamedTuple, Optional

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

__all__ = ['SeededDataset', 'SeededSampler']


class Place(NamedTuple):
    """An image in an epoch: how often the loader was started before, the seed of its workers, and the index."""

    epoch: int
    seed: int
    index: int


class SeededSampler(Sampler[Place]):
    """A sampler that hands the seed of an epoch over with each index, for `SeededDataset`.

    Args:
        sampler: Sampler of indices.
        generator: That of the loader. The seed is the one which a loader draws from it for new workers.
    """

    def __init__(self, sampler: Any, generator: torch.Generator):
        self.sampler = sampler
        self.generator = generator
        self.epoch: int = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Place]:
        self.epoch += 1
        # the loader draws a seed of its own from the generator at its first start, and none later
        generator = torch.Generator().manual_seed(self.generator.initial_seed())
        seed = torch.empty((), dtype=torch.int64).random_(generator=generator).item()
        return (Place(self.epoch, seed, index) for index in self.sampler)


class SeededDataset(Dataset[Any]):
    """A data set whose worker seeds itself when an epoch begins, as PyTorch seeds a new one."""

    def __init__(self, dataset: Dataset[Any]):
        self.dataset = dataset
        self.epoch: Optional[int] = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place) -> Any:
        if place.epoch != self.epoch:
            self.epoch = place.epoch
            worker, seed = get_worker_info().id, place.seed
            random.seed(seed + worker)
            torch.manual_seed(seed + worker)
            words = (worker, seed & 0xFFFFFFFF, seed >> 32, 0)
            np.random.seed(np.random.SeedSequence(words).generate_state(4))
        return self.dataset[place.index]
