"""One pass over the training images."""

import argparse
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from timm import utils
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask

from .progress import Progress

__all__ = ['TrainingError', 'train_one_epoch', 'updates_of']


class TrainingError(RuntimeError):
    """Training can't go on."""


class _RunningStats:
    """Running statistics of a model as they were before an update, which a loss that is not finite spoils."""

    def __init__(self, model: torch.nn.Module):
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.buffers: List[torch.Tensor] = [buffer for norm in norms for buffer in norm.buffers()]
        self.kept = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def keep(self) -> None:
        for kept, buffer in zip(self.kept, self.buffers):
            kept.copy_(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        for kept, buffer in zip(self.kept, self.buffers):
            buffer.copy_(kept)


def updates_of(num_batches: int, args: argparse.Namespace) -> int:
    """Optimizer updates of an epoch. The last one may gather fewer batches."""
    return math.ceil(num_batches / args.grad_accum_steps)


def _is_finite(loss: torch.Tensor, distributed: bool) -> bool:
    """Whether the loss is finite in every process: all have to skip an update, or none."""
    finite = loss.detach().isfinite().float()
    if distributed:
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite.item())


def train_one_epoch(
    epoch: int,
    task: TrainingTask,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    scaler: Optional[utils.NativeScaler],
    autocast: Callable[[], AbstractContextManager],
    args: argparse.Namespace,
    progress: Optional[Progress] = None,
) -> Dict[str, float]:
    """One pass over the training loader, returns the mean loss and the last learning rate.

    Raises:
        TrainingError: If the loss of more than `max_bad_steps` updates was not finite.
    """
    task.train()
    parameters = list(task.get_clip_parameters(exclude_head=args.clip_mode == 'agc'))
    running_stats = _RunningStats(task.get_trainable_module())
    updates = updates_of(len(loader), args)
    average = utils.AverageMeter()
    bad_updates, bad, images_of_update = 0, False, 0
    optimizer.zero_grad()
    if progress is not None:
        progress.start_epoch_bar(epoch)
    for index, (images, target) in enumerate(loader):
        update, position = divmod(index, args.grad_accum_steps)
        batches = min(args.grad_accum_steps, len(loader) - update * args.grad_accum_steps)
        is_last = position == batches - 1
        if position == 0:
            running_stats.keep()
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with nullcontext() if is_last else task.no_sync():
            with autocast():
                loss = task(images, target)['loss']
            bad = bad or not _is_finite(loss, args.distributed)
            if not bad:
                average.update(loss.item(), len(images))
                if scaler is not None:
                    scaler(
                        loss / batches, optimizer, clip_grad=args.clip_grad or None, clip_mode=args.clip_mode,
                        parameters=parameters, need_update=is_last,
                    )  # fmt: skip
                else:
                    (loss / batches).backward()
        images_of_update += len(images) * args.world_size
        if not is_last:
            continue
        if bad:
            running_stats.restore()
            bad_updates += 1
            place = f'at epoch {epoch + 1}, update {update + 1} of {updates}'
            if bad_updates > args.max_bad_steps:
                raise TrainingError(
                    f'The loss is {loss.item()} {place}, after {bad_updates - 1} updates of this epoch were skipped '
                    'for that. The last checkpoint is kept. A lower --lr, or --amp-dtype bfloat16 in '
                    'place of float16, may help.'
                )
            if utils.is_primary(args):
                print(f'Skipped an update: the loss is {loss.item()} {place}.', flush=True)
        elif scaler is None:
            if args.clip_grad:
                utils.dispatch_clip_grad(parameters, args.clip_grad, mode=args.clip_mode)
            optimizer.step()
        optimizer.zero_grad()
        done = epoch * updates + update + 1
        if not bad:
            task.update_ema(step=done)
        lr = optimizer.param_groups[0]['lr']
        scheduler.step_update(done)
        if progress is not None:
            progress.update(update, images_of_update, average.avg, lr)
        bad, images_of_update = False, 0
    if progress is not None:
        progress.close()
    loss = average.avg if average.count else math.nan
    if args.distributed:
        loss = utils.reduce_tensor(torch.tensor(loss, device=args.device), args.world_size).item()
    return {'loss': loss, 'lr': lr}
