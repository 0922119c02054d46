"""Loaders of batches for training and evaluation."""

import random
import warnings
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset
from torch.utils.data.distributed import DistributedSampler

from timm.data import FastCollateMixup, create_loader
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.loader import PrefetchLoader, fast_collate

from ..runtime import FileWarning, one_line, start_slowly
from .decode import MODES, Decoder
from .images import BadImageError
from .sampling import class_balanced_indices
from .workers import SeededDataset, SeededSampler

__all__ = ['TrainCollate', 'create_eval_loader', 'create_train_loader', 'start_epoch']

Sample = Tuple[Any, torch.Tensor]


class TrainCollate:
    """Collate a batch without its unreadable images, and mix it if asked to. Unknown labels win in a mixed image.

    Args:
        num_classes: Length L of the targets.
        mixup: Arguments of timm's `FastCollateMixup`, or None for no mixing.
    """

    def __init__(self, num_classes: int, mixup: Optional[Dict[str, Any]] = None):
        self.mixup: Optional[FastCollateMixup] = None
        if mixup:
            self.mixup = FastCollateMixup(**mixup, num_classes=2 * num_classes, label_smoothing=0.0, multi_label=True)

    def __call__(self, batch: List[Sample]) -> Tuple[torch.Tensor, torch.Tensor]:
        batch = sorted(batch, key=lambda sample: bool(sample[1].isnan().any()))  # readable ones first
        readable = sum(not sample[1].isnan().any() for sample in batch)
        # keep at least two images for batch normalisation: targets of nan have no loss
        batch = batch[: max(readable, 2)]
        pairs = len(batch) // 2 * 2
        if not self.mixup or not pairs or readable < len(batch):
            return fast_collate(batch)
        # labels, then whether they are unknown, both mixed the same way
        doubled = [(image, torch.cat([target.clamp(min=0), (target < 0).float()])) for image, target in batch]
        images, target = self.mixup(doubled[:pairs])
        if pairs < len(batch):  # timm mixes pairs; an odd image stays as it is
            image, last = fast_collate(doubled[pairs:])
            images, target = torch.cat([images, image]), torch.cat([target, last])
        labels, unknown = target.chunk(2, dim=1)  # (B, 2 L) -> 2 x (B, L)
        return images, torch.where(unknown > 0, -1.0, labels)


class StreamTransform:
    """Transform of a stream, whose images timm opens: brings them to the pixels that a file of them would have.

    Args:
        decoder: Converts the images.
        transform: Follows.
    """

    def __init__(self, decoder: Decoder, transform: Callable):
        self.decoder = decoder
        self.transform = transform

    def __call__(self, image: Any) -> Any:
        try:
            return self.transform(self.decoder.convert(image))
        except MemoryError:
            raise
        except Exception as error:
            raise BadImageError(f'Cannot read an image of the stream: {one_line(error)}') from error


def _set_transform(dataset: Any, data_config: Dict[str, Any], transform: Any) -> None:
    """Have a data set give transformed images with the channels of the data config."""
    if hasattr(dataset, 'decoder'):
        dataset.decoder = replace(dataset.decoder, mode=MODES[data_config['input_size'][0]])
        if isinstance(dataset, IterableDataset):
            dataset.reader.input_img_mode = ''  # the decoder converts them
            transform = StreamTransform(dataset.decoder, transform)
    dataset.transform = transform


def create_train_loader(
    dataset: Any,
    data_config: Dict[str, Any],
    transform: Any,
    batch_size: int,
    device: torch.device,
    num_workers: int,
    seed: int = 42,
    rank: int = 0,
    world_size: int = 1,
    oversample_thr: Optional[float] = None,
    aug_repeats: float = 0,
    mixup: Optional[Dict[str, Any]] = None,
    mixup_ends: bool = False,
) -> PrefetchLoader:
    """Create a loader of shuffled batches. It keeps the last, smaller batch as the published training does; timm's
    `create_loader` drops it.

    Args:
        dataset: Data set with `class_names`.
        data_config: Data config of the model: mean, std and input_size.
        transform: Turns PIL images into uint8 tensors (C, H, W).
        batch_size: Images in a batch of this process.
        device: Device of the batches.
        num_workers: Processes that load images. The seed of an epoch decides all that they draw in it.
        seed: Seed of the order, see `start_epoch`.
        rank: Rank of this process.
        world_size: Number of processes; each takes its share of an epoch.
        oversample_thr: See `class_balanced_indices`.
        aug_repeats: Repeated augmentation: an epoch has the same length, and each of its images occurs that many times.
        mixup: See `TrainCollate`.
        mixup_ends: Whether the collate function will be told to mix no more: workers then live for one epoch.

    Raises:
        ValueError: If a stream is to be oversampled or repeated.
    """
    _set_transform(dataset, data_config, transform)
    sampler, keeps_workers, generator = None, False, torch.Generator()
    num_classes = len(dataset.class_names)
    if isinstance(dataset, IterableDataset):
        if oversample_thr or aug_repeats:
            raise ValueError('--oversample-thr and --aug-repeats need a data set with random access, not a stream.')
        dataset.set_loader_cfg(num_workers=num_workers)
    else:
        if oversample_thr:
            dataset = Subset(dataset, class_balanced_indices(dataset.targets(), oversample_thr))
        if aug_repeats:
            sampler = RepeatAugSampler(dataset, world_size, rank, num_repeats=aug_repeats)
        else:
            sampler = DistributedSampler(dataset, world_size, rank, seed=seed)
        keeps_workers = num_workers > 0 and start_slowly() and not (mixup and mixup_ends)
    if keeps_workers:
        dataset, sampler = SeededDataset(dataset), SeededSampler(sampler, generator)
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=TrainCollate(num_classes, mixup),
        pin_memory=device.type == 'cuda',
        generator=generator,
        persistent_workers=keeps_workers,
    )
    return PrefetchLoader(loader, data_config['mean'], data_config['std'], data_config['input_size'][0], device)


def start_epoch(loader: PrefetchLoader, seed: int, epoch: int, rank: int) -> None:
    """Seed everything random in an epoch: its order, its workers and this process.

    An epoch is then the same whether it follows another one or comes first in a resumed run.
    """
    seeds = np.random.SeedSequence((seed, epoch, rank)).generate_state(4).tolist()
    random.seed(seeds[0])
    np.random.seed(seeds[1])  # with the seed of torch it would draw the same numbers
    torch.manual_seed(seeds[2])
    warnings.simplefilter('ignore' if epoch else 'default', FileWarning)  # they would be the same in every epoch
    loader.loader.generator.manual_seed(seeds[3])  # workers seed torch, numpy and random from it
    if isinstance(loader.dataset, IterableDataset):
        loader.dataset.set_epoch(epoch)
    else:
        sampler = loader.sampler.sampler if isinstance(loader.sampler, SeededSampler) else loader.sampler
        # timm's sampler of repeated augmentation has no seed of its own
        sampler.set_epoch(seed + epoch if isinstance(sampler, RepeatAugSampler) else epoch)


def create_eval_loader(
    dataset: Any,
    data_config: Dict[str, Any],
    batch_size: int,
    device: torch.device,
    num_workers: int,
    distributed: bool = False,
) -> Any:
    """Create timm's evaluation loader with the preprocessing of a model's data config."""
    loader = create_loader(
        dataset,
        **data_config,
        batch_size=batch_size,
        num_workers=num_workers,
        distributed=distributed,
        pin_memory=device.type == 'cuda',
        device=device,
    )
    _set_transform(dataset, data_config, dataset.transform)  # timm has set one
    return loader
