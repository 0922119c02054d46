"""Learning rate of each update."""

from typing import Tuple

import torch

from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler

from .config import TrainConfig

__all__ = ['create_schedule']


def create_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, updates_per_epoch: int
) -> Tuple[Scheduler, int]:
    """timm's schedule, and the number of epochs it takes.

    A milestone is the first epoch at the lower rate, as published. timm's MultiStepLRScheduler lowers the rate one step
    earlier, by a convention that it keeps on purpose.
    """
    kwargs = scheduler_kwargs(config, decreasing_metric=False)
    half_step = 0.5 / (updates_per_epoch if config.sched_on_updates else 1)
    kwargs['decay_milestones'] = [epoch + half_step for epoch in config.decay_milestones]
    return create_scheduler_v2(optimizer, **kwargs, updates_per_epoch=updates_per_epoch)
