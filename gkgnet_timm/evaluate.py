"""Evaluation on a labelled split, the same in training and in validation."""

import argparse
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Callable, Dict

import torch
import torch.nn as nn

from .metrics import MultiLabelEvaluator

__all__ = ['autocast_context', 'evaluate']


def autocast_context(device: torch.device, amp: bool, amp_dtype: str) -> Callable[[], AbstractContextManager]:
    """Maker of the context that forward passes run in."""
    return partial(torch.autocast, device.type, dtype=getattr(torch, amp_dtype), enabled=amp)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Any,
    evaluator: MultiLabelEvaluator,
    autocast: Callable[[], AbstractContextManager],
    args: argparse.Namespace,
    flip: bool = False,
) -> Dict[str, float]:
    """Metrics of a model over a loader, in percent; with flip of the mean logits of images and their mirror images."""
    model.eval()
    for images, target in loader:
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            logits = model(images).float()
            if flip:
                logits = (logits + model(images.flip(-1)).float()) / 2
        evaluator.update(logits, target)
    return evaluator.compute(distributed=args.distributed)
