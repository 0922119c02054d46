"""One pass over the training images."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from timm import utils
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask

from ..inference.device import Process
from ..runtime import UserError
from .config import TrainConfig
from .freeze import hold_statistics
from .progress import Progress

__all__ = ['CHECK_IMAGES', 'TrainingError', 'train_one_epoch', 'updates_of']

CHECK_IMAGES = '`python -m gkgnet_timm check-data` with the same data flags says why'


class TrainingError(UserError):
    """Training cannot go on: too many losses or scores are not finite."""


@torch.no_grad()
def _copy(source: List[torch.Tensor], target: List[torch.Tensor]) -> None:
    for old, new in zip(source, target):
        new.copy_(old)


def updates_of(num_batches: int, grad_accum_steps: int) -> int:
    """Optimizer updates of an epoch. The last one may gather fewer batches."""
    return math.ceil(num_batches / grad_accum_steps)


def _is_finite(loss: torch.Tensor, distributed: bool) -> bool:
    """Whether the loss is finite in every process: either all skip an update, or none does."""
    finite = loss.detach().isfinite().float()
    if distributed:
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite.item())


def _in_any(found: bool, process: Process) -> bool:
    """Whether something was found in any process."""
    flag = torch.tensor(float(found), device=process.device)
    if process.is_distributed:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def train_one_epoch(
    epoch: int,
    task: TrainingTask,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    scaler: Optional[utils.NativeScaler],
    autocast: Callable[[], AbstractContextManager],
    config: TrainConfig,
    process: Process,
    progress: Optional[Progress] = None,
) -> Dict[str, float]:
    """One pass over the training loader.

    Args:
        epoch: From 0.
        task: Model and loss, on the device of the process.
        loader: Batches of images (B, C, H, W) and targets (B, L).
        optimizer: Of the model.
        scheduler: Stepped after every update.
        scaler: Of the loss in float16, else None.
        autocast: Maker of the context of the forward pass.
        config: Fields `grad_accum_steps`, `clip_grad`, `clip_mode`, `max_bad_steps` and `channels_last`.
        process: This process.
        progress: Reports the updates, None for silence.

    Returns:
        The mean loss, the last learning rate, and the loss of the first update.

    Raises:
        TrainingError: If the loss of more than `max_bad_steps` updates was not finite, or no image could be read.
    """
    task.train()
    if config.is_frozen(epoch):
        hold_statistics(utils.unwrap_model(task.get_trainable_module()))
    parameters = list(task.get_clip_parameters(exclude_head=config.clip_mode == 'agc'))
    norms = [module for module in task.get_trainable_module().modules() if isinstance(module, _BatchNorm)]
    running_stats = [buffer for norm in norms for buffer in norm.buffers()]
    kept_stats = [buffer.clone() for buffer in running_stats]
    updates = updates_of(len(loader), config.grad_accum_steps)
    average, start = utils.AverageMeter(), math.nan
    bad_updates, bad, images_of_update, readable = 0, False, 0, False
    optimizer.zero_grad()
    for index, (images, target) in enumerate(loader):
        update, position = divmod(index, config.grad_accum_steps)
        batches = min(config.grad_accum_steps, len(loader) - update * config.grad_accum_steps)
        is_last = position == batches - 1
        readable = readable or not target.isnan().any(dim=1).all()  # looks no further than the first such batch
        if position == 0:
            _copy(running_stats, kept_stats)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with nullcontext() if is_last else task.no_sync():
            with autocast():
                loss = task(images, target)['loss']
            bad = bad or not _is_finite(loss, process.is_distributed)
            if not bad:
                average.update(loss.item(), len(images))
                start = loss.item() if math.isnan(start) else start
                if scaler is not None:
                    scaler(
                        loss / batches, optimizer, clip_grad=config.clip_grad or None, clip_mode=config.clip_mode,
                        parameters=parameters, need_update=is_last,
                    )  # fmt: skip
                else:
                    (loss / batches).backward()
        images_of_update += len(images) * process.world_size
        if not is_last:
            continue
        if bad:
            _copy(kept_stats, running_stats)  # a loss that is not finite spoils them
            bad_updates += 1
            place = f'at epoch {epoch + 1}, update {update + 1} of {updates}'
            if bad_updates > config.max_bad_steps:
                raise TrainingError(
                    f'The loss is {loss.item()} {place}, after {bad_updates - 1} updates of this epoch were skipped '
                    'for that. The last checkpoint is kept. A lower --lr, or --amp-dtype bfloat16 in '
                    'place of float16, may help.'
                )
            if process.is_primary:
                with tqdm.external_write_mode():  # the bar goes on below
                    print(f'Skipped an update: the loss is {loss.item()} {place}.', flush=True)
        elif scaler is None:
            if config.clip_grad:
                utils.dispatch_clip_grad(parameters, config.clip_grad, mode=config.clip_mode)
            optimizer.step()
        optimizer.zero_grad()
        done = epoch * updates + update + 1
        if not bad:
            task.update_ema(step=done)
        lr = max(group['lr'] for group in optimizer.param_groups)
        scheduler.step_update(done)
        if progress is not None:
            progress.update(update, images_of_update, average.avg, lr)
        bad, images_of_update = False, 0
    if not _in_any(readable, process):
        raise TrainingError(f'None of the images of epoch {epoch + 1} could be read: {CHECK_IMAGES}.')
    loss = average.avg if average.count else math.nan
    if process.is_distributed:
        loss = utils.reduce_tensor(torch.tensor(loss, device=process.device), process.world_size).item()
    return {'loss': loss, 'lr': lr, 'start': start}
