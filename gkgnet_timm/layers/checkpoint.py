"""Gradient checkpointing of blocks that have BatchNorms."""

from contextlib import contextmanager, nullcontext
from typing import Iterator, Optional, Tuple

import torch
import torch.nn as nn

from timm.models import checkpoint

__all__ = ['checkpoint_block']


@contextmanager
def _kept_running_stats(module: nn.Module) -> Iterator[None]:
    # BatchNorm updates copies: without any statistics it would save other tensors for backward than the first time
    kept = []
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            kept += [(norm, name, buffer) for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def checkpoint_block(
    block: nn.Module,
    x: torch.Tensor,
    candidates: Optional[torch.Tensor] = None,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]] = None,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Run a block whose activations are computed again in the backward pass.

    The second run leaves the running statistics of its BatchNorms alone; otherwise they would be updated twice.
    """
    if torch.compiler.is_compiling():  # recomputes only what is without side effects
        return checkpoint(block, x, candidates, position)
    return checkpoint(block, x, candidates, position, context_fn=lambda: (nullcontext(), _kept_running_stats(block)))
