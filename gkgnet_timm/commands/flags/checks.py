"""TODO commands.flags.checks."""

import argparse
from pathlib import Path
from typing import Sequence, Union

import torch

from ...runtime import blame

__all__ = ['check_device', 'check_outputs', 'check_ranges', 'check_weights']

RANGES = {  # closed ones
    'smoothing': (0, 0.999),
    'mixup': (0, 100),
    'cutmix': (0, 100),
    'mixup_prob': (0, 1),
    'mixup_switch_prob': (0, 1),
    'aug_repeats': (0, 100),
    'model_ema_decay': (0, 1),
    'clip_grad': (0, float('inf')),
    'layer_decay': (0, 1),
    'decay_epochs': (1e-9, float('inf')),
    'epochs': (1, float('inf')),
    'batch_size': (1, float('inf')),
    'validation_batch_size': (1, float('inf')),
    'grad_accum_steps': (1, float('inf')),
    'checkpoint_hist': (1, float('inf')),
    'log_interval': (1, float('inf')),
    'workers': (0, float('inf')),
    'img_size': (1, float('inf')),
    'num_classes': (1, float('inf')),
    'num_samples': (1, float('inf')),
    'topk': (1, float('inf')),
    'crop_pct': (0.01, 1.5),
    'seed': (0, 2**32 - 1),
}


def check_ranges(args: argparse.Namespace) -> None:
    """Raise a ValueError that names the first flag that is out of its range, nan included."""
    for name, (low, high) in RANGES.items():
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            expected = f'at least {low}' if high == float('inf') else f'from {low} to {high}'
            raise ValueError(f'--{name.replace("_", "-")} has to be {expected}, got {value}.')


def check_outputs(args: argparse.Namespace, files: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Raise an OSError if flags for output name what can not become a file, or a folder: now, not after all images."""
    for name in (*files, *folders):
        if getattr(args, name) is None:
            continue
        path = Path(getattr(args, name)).absolute()
        shown = f'--{name.replace("_", "-")} {getattr(args, name)!r}'
        if name in folders:
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            if not existing.is_dir():
                raise NotADirectoryError(f'{shown}: {existing.name!r} is a file, give a folder.')
        elif path.is_dir():
            raise IsADirectoryError(f'{shown} is a folder, give a file.')
        elif not path.parent.is_dir():
            raise FileNotFoundError(f'{shown}: there is no such folder.')


def check_device(device: Union[str, torch.device]) -> torch.device:
    """A device that can hold numbers, or else a ValueError."""
    with blame(f'--device {str(device)!r}'):
        device = torch.device(device)
        torch.zeros(1, device=device).item()
    return device


def check_weights(args: argparse.Namespace) -> None:
    """Raise a ValueError if flags name no weights, or others than the checkpoint has, whose flags are `trained`."""
    trained = args.trained
    if not args.checkpoint and not (args.model and args.pretrained):
        raise ValueError('No weights: give --checkpoint FILE, or --model NAME --pretrained.')
    if not args.model:
        raise ValueError(f'Checkpoint {args.checkpoint!r} does not say which model it is of, give --model NAME.')
    if trained and args.model.partition('.')[0] != trained['model'].partition('.')[0]:
        raise ValueError(f'Checkpoint {args.checkpoint!r} is of model {trained["model"]!r}, not {args.model!r}.')
    if args.use_ema and not trained.get('has_ema'):
        raise ValueError(
            f'--use-ema: {args.checkpoint or args.model!r} holds no average of the weights, as a training with '
            '--model-ema leaves one.'
        )
