"""Evaluation on a labelled split, the same in training and in validation."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Callable, Dict

import torch
import torch.nn as nn

from timm.data import create_loader

from .data import MultiLabelDataset

__all__ = ['autocast_context', 'create_eval_loader', 'evaluate']


def autocast_context(device: torch.device, amp: bool, amp_dtype: str) -> Callable[[], AbstractContextManager]:
    """Maker of the context that forward passes run in.

    Raises:
        ValueError: For a type other than 'bfloat16' and 'float16'.
    """
    if amp_dtype not in ('bfloat16', 'float16'):
        raise ValueError(f"amp_dtype must be 'bfloat16' or 'float16', got {amp_dtype!r}.")
    return partial(torch.autocast, device.type, dtype=getattr(torch, amp_dtype), enabled=amp)


def create_eval_loader(
    dataset: MultiLabelDataset,
    data_config: Dict[str, Any],
    batch_size: int,
    device: torch.device,
    num_workers: int,
    distributed: bool = False,
) -> Any:
    """timm's evaluation loader with the preprocessing of a model's data config."""
    return create_loader(
        dataset,
        input_size=data_config['input_size'],
        interpolation=data_config['interpolation'],
        mean=data_config['mean'],
        std=data_config['std'],
        crop_pct=data_config['crop_pct'],
        crop_mode=data_config['crop_mode'],
        batch_size=batch_size,
        num_workers=num_workers,
        distributed=distributed,
        pin_memory=device.type == 'cuda',
        device=device,
    )


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Any,
    evaluator: Any,
    autocast: Callable[[], AbstractContextManager],
    distributed: bool = False,
) -> Dict[str, float]:
    """Metrics of a timm evaluator over a loader, in percent."""
    model.eval()
    for images, target in loader:
        with autocast():
            logits = model(images)
        evaluator.update(logits.float(), target)
    return evaluator.compute(distributed=distributed)
