"""Data sets, loaders, model and loss of a training run."""

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any, Collection, Dict, Optional, Tuple

import torch
from torch.utils.data import IterableDataset

from timm.layers import convert_sync_batchnorm
from timm.loss import CLASS_WEIGHT_METHODS
from timm.optim import create_optimizer_v2, optimizer_kwargs

from ..data import create_eval_loader, create_train_loader, create_train_transform
from ..data.check import check_splits, class_counts, describe
from ..data.readers.base import first_names
from ..data.readers.table import TABLE_OPTIONS
from ..data.splits import hold_out, open_split
from ..inference.device import Process
from ..runtime import blame, read_json
from ..weights.load import check_arguments, check_forward, create_model, create_model_by_labels
from ..weights.source import find_weights
from .checkpoint import TrainTask
from .config import TrainConfig
from .criterion import check_loss, create_criterion

__all__ = ['check_last_batch', 'check_start', 'create_datasets', 'create_loaders', 'create_optimizer', 'create_task']


def create_datasets(
    config: TrainConfig, process: Process, bad_images: Optional[Path], held_out: Optional[Collection[str]] = None
) -> Tuple[Any, Any]:
    """Checked training and evaluation sets, both with the classes of the first. The second is None for `no_val`.

    Args:
        config: Fields of the data sets.
        process: The primary one prints what the sets hold.
        bad_images: File that lists unreadable images, None to stop at the first.
        held_out: Files of evaluation that a run to be resumed has chosen by `val_fraction`.
    """
    names = ('class_map', 'drop_unlabelled', 'drop_empty_classes', 'num_classes')
    names += ('input_key', 'target_key', 'target_format', 'seed')
    names += ('bit_depth', 'background', 'max_pixels')
    shared = {name: getattr(config, name) for name in (*names, *TABLE_OPTIONS)}
    shared.update(bad_images=bad_images)

    def open_part(part: str, **options: Any) -> Any:
        fields = ('split', 'images', 'num_samples', 'where')
        split, images, samples, where = (getattr(config, f'{part}_{name}') for name in fields)
        if part == 'val' and where and not split:  # of the same table
            split, images = train_set.split, images or train_set.images
        options.update(shared, part=part, images=images, num_samples=samples, where=where)
        options.setdefault('verbose', process.is_primary)
        return open_split(config.dataset, config.data_dir, split, **options)

    options = dict(unknown=config.unknown_labels, batch_size=config.batch_size)
    train_set = open_part('train', **options)
    if process.is_primary:
        print(f'{len(train_set.class_names)} classes: {first_names(train_set.class_names)}')
    if config.val_fraction:
        train_set, val_set = hold_out(train_set, config.val_fraction, config.seed, held_out)
        if process.is_primary:
            print(describe(train_set, f'{train_set.split}, to train on'))
            print(describe(val_set, f'{val_set.split}, held out'))
        return train_set, val_set
    if config.no_val:
        return train_set, None
    options = dict(class_names=train_set.class_names, meaning=getattr(train_set.reader, 'meaning', None))
    val_set = open_part('val', batch_size=config.validation_batch_size, **options)
    common = check_splits(train_set, val_set, config.allow_same_split)
    val_set.is_training_split = common == len(train_set) == len(val_set)
    if common and process.is_primary:
        print(f'Warning: {common} images are in both splits.')
    return train_set, val_set


def create_loaders(
    config: TrainConfig, train_set: Any, val_set: Any, data_config: Dict[str, Any], process: Process
) -> Tuple[Any, Any]:
    """Loaders of training and evaluation, if any, with the preprocessing of a model's data config."""
    names = ('cropmix', 'reprob', 'no_aug', 'scale', 'ratio', 'hflip', 'vflip', 'color_jitter', 'train_crop_mode')
    with blame('--aa, --train-interpolation, --scale, --ratio'):
        transform = create_train_transform(
            data_config['input_size'],
            auto_augment=config.aa,
            interpolation=config.train_interpolation,
            mean=data_config['mean'],
            std=data_config['std'],
            **{name: getattr(config, name) for name in names},
        )
    mixup = None
    if config.mixup or config.cutmix:
        mixup = dict(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.mixup_prob,
            switch_prob=config.mixup_switch_prob,
            mode=config.mixup_mode,
        )
    train_loader = create_train_loader(
        train_set,
        data_config,
        transform,
        config.batch_size,
        process.device,
        config.workers,
        seed=config.seed,
        rank=process.rank,
        world_size=process.world_size,
        oversample_thr=config.oversample_thr,
        aug_repeats=config.aug_repeats,
        mixup=mixup,
        mixup_ends=bool(config.mixup_off_epoch),
    )
    val_loader = None
    if val_set is not None:
        val_loader = create_eval_loader(
            val_set, data_config, config.validation_batch_size, process.device, config.workers, process.is_distributed
        )
    return train_loader, val_loader


def _model_options(config: TrainConfig) -> Dict[str, Any]:
    check_arguments(config.model, config.model_kwargs)
    flags = dict(img_size=config.img_size, in_chans=config.in_chans)
    flags.update(drop_rate=config.drop, drop_path_rate=config.drop_path)
    options = {**config.model_kwargs, **{name: value for name, value in flags.items() if value is not None}}
    return dict(options, pos_embed_init=config.pos_embed_init)


def _create_model(config: TrainConfig, class_names: list, process: Process, is_resumed: bool) -> torch.nn.Module:
    options = _model_options(config)
    if is_resumed:  # the weights of the checkpoint follow
        options.pop('pretrained_backbone', None)
        return create_model(config.model, num_classes=len(class_names), **options)
    source = config.pretrained_path or config.initial_checkpoint
    path = source and find_weights(source)
    if path != source and process.is_primary:
        print(f'Weights of {source!r}: {path}')
    options.update(pretrained=config.pretrained, pretrained_path=path)
    if not config.init_labels_by_name:
        model = create_model(config.model, num_classes=len(class_names), **options)
        known = model.pretrained_cfg['num_classes']
        if config.initial_checkpoint and known != len(class_names):
            raise ValueError(
                f'--initial-checkpoint {source!r} is of {known or "no"} classes, the data set has {len(class_names)}: '
                'give --pretrained-path to start the classifier anew.'
            )
        return model
    model, known = create_model_by_labels(config.model, class_names, **options)
    if process.is_primary:
        shown = ', '.join(known[:8]) + (', ...' if len(known) > 8 else '')
        print(f'Rows of {len(known)} of {len(class_names)} classes are those of the pretrained weights: {shown}')
    return model


def _read_class_stats(path: str) -> Tuple[torch.Tensor, int]:
    """Images with each class (L,), and all images, from a json as timm's `load_class_stats` takes it."""
    stats = read_json(path)
    if not isinstance(stats, dict) or not {'pos_counts', 'num_samples'} <= stats.keys():
        raise ValueError(f"{path!r} needs 'pos_counts' and 'num_samples'")
    counts, samples = torch.as_tensor(stats['pos_counts'], dtype=torch.float32), int(stats['num_samples'])
    if counts.ndim != 1 or not counts.numel() or not ((0 <= counts) & (counts <= samples)).all():
        raise ValueError(f'{path!r} has pos_counts that are not numbers of images from 0 to {samples}')
    return counts, samples


def _create_criterion(config: TrainConfig, train_set: Any) -> torch.nn.Module:
    num_classes = len(train_set.class_names)
    counts = None
    if config.class_stats:
        with blame('--class-stats'):
            counts = _read_class_stats(config.class_stats)
    if counts is not None and len(counts[0]) != num_classes:
        raise ValueError(f'{config.class_stats!r} counts {len(counts[0])} classes, the data set has {num_classes}.')
    by_frequency = {config.loss_class_weight, config.loss_pos_weight} & set(CLASS_WEIGHT_METHODS)
    if counts is None and (config.loss == 'db' or by_frequency):
        counts = class_counts(train_set)
    return create_criterion(config, num_classes, counts)


def check_start(config: TrainConfig, is_resumed: bool = False) -> None:
    """Check what needs no data before it is read: names, weights, packages, optimizer and arguments of the model.

    Raises:
        FileNotFoundError: If weights to start from do not exist.
        ValueError: If anything else cannot work. Names the flag.
    """
    source = None if is_resumed else config.pretrained_path or config.initial_checkpoint
    path = source and find_weights(source)
    for flag, package, install in (
        ('log_wandb', 'wandb', 'wandb'),
        ('log_tensorboard', 'tensorboard', "'gkgnet-timm[tensorboard]'"),
    ):
        is_there = sys.modules.get(package) or importlib.util.find_spec(package)
        if getattr(config, flag) and not is_there:
            raise ValueError(f'--{flag.replace("_", "-")} needs the package: pip install {install}.')
    check_loss(config)
    create_optimizer(config, torch.nn.Linear(1, 1))
    if config.model_kwargs:
        options = dict(_model_options(config), pretrained=config.pretrained and not is_resumed, pretrained_path=path)
        if is_resumed:
            options.pop('pretrained_backbone', None)
        check_forward(create_model(config.model, num_classes=2, **options, use_ema=False))


def create_task(config: TrainConfig, train_set: Any, process: Process, is_resumed: bool = False) -> TrainTask:
    """Model and loss on their device, before they are compiled and distributed."""
    torch.manual_seed(config.seed)
    class_names = train_set.class_names
    model = _create_model(config, class_names, process, is_resumed).to(process.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    if config.sync_bn and process.is_distributed:
        if process.device.type != 'cuda':
            raise ValueError(f'--sync-bn works on CUDA devices only, not on {str(process.device)!r}.')
        model = convert_sync_batchnorm(model)
    criterion = _create_criterion(config, train_set)
    meaning = getattr(train_set.reader, 'meaning', None)
    table = meaning and meaning.to_record()
    return TrainTask(model, criterion, process.device, dict(config.to_dict(), class_names=class_names, table=table))


def create_optimizer(config: TrainConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model, after one of its kind has made a step on a single weight.

    Raises:
        ValueError: If it cannot be created, or cannot make such a step.
    """
    with blame('--opt, --opt-betas, --opt-kwargs'):
        optimizer = create_optimizer_v2(model, **optimizer_kwargs(config), **config.opt_kwargs)
    if getattr(optimizer, 'is_second_order', False):
        problem = 'needs second derivatives, which this training does not compute'
        raise ValueError(f'--opt {config.opt!r} {problem}: give one such as adamw.')
    with blame('--opt, --opt-betas, --opt-kwargs'):
        probe = torch.nn.Parameter(torch.ones(1, 1, device=next(model.parameters()).device))
        options = dict(optimizer_kwargs(config), layer_decay=None)
        trial = create_optimizer_v2([probe], **options, **config.opt_kwargs)
        probe.sum().backward()
        trial.step()
    return optimizer


def check_last_batch(loader: Any, model: torch.nn.Module, batch_size: int, input_size: Tuple[int, ...]) -> None:
    """Raise a ValueError if an epoch has a batch of a single image and the model cannot be trained on that."""
    if batch_size > 1 and (isinstance(loader.dataset, IterableDataset) or len(loader.sampler) % batch_size != 1):
        return
    probe = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            probe(torch.zeros(1, *input_size, device=next(probe.parameters()).device))
    except ValueError as error:  # batch normalisation of a single value
        raise ValueError(
            f'An epoch has a batch of a single image, on which {type(model).__name__} cannot be trained at this size: '
            'give another --batch-size.'
        ) from error
