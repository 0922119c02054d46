"""Where a model runs: its device, its precision, and the other processes that take part."""

from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Callable, NamedTuple, Union

import torch

from timm.utils import init_distributed_device

from ..runtime import blame

__all__ = ['Process', 'autocast_context', 'check_device', 'default_device', 'start_process']


class Process(NamedTuple):
    """This process: its device, and its place among those of a distributed run."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_distributed(self) -> bool:
        return torch.distributed.is_initialized()

    @property
    def is_primary(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0


def default_device() -> str:
    """Return 'cuda' if there is one, else 'cpu'."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def _check_name(name: str) -> None:
    """Raise a ValueError in place of the long ones of PyTorch, for an unknown name, and if there is no Metal."""
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'--device {name!r} is unknown, expected such as cpu, cuda, cuda:1 or mps.') from error
    if name.partition(':')[0] == 'mps' and not torch.backends.mps.is_available():
        raise ValueError(f'--device {name!r}: this machine or this PyTorch has no MPS, give cpu.')


def check_device(device: Union[None, str, torch.device]) -> torch.device:
    """Return a device after checking that it can hold numbers; None means the default device.

    Raises:
        ValueError: If there is no such device.
    """
    name = str(device or default_device())
    _check_name(name)
    with blame(f'--device {name!r}'):
        checked = torch.device(name)
        torch.zeros(1, device=checked).item()
    return checked


def start_process(device: Union[None, str, torch.device] = None) -> Process:
    """Join the processes that `torchrun` or SLURM started, if any, each on a device of its own.

    Raises:
        ValueError: If there is no such device.
    """
    name = str(device or default_device())
    found = SimpleNamespace(device=name)
    _check_name(name)
    with blame(f'--device {name!r}'):
        device = init_distributed_device(found)
    return Process(check_device(device), found.rank, found.world_size)


def autocast_context(
    device: torch.device, amp: bool, amp_dtype: str = 'bfloat16'
) -> Callable[[], AbstractContextManager]:
    """Return a function that creates the context of a forward pass: automatic mixed precision, if `amp`.

    Raises:
        ValueError: If amp is not decided yet, see `choose_amp`.
    """
    if not isinstance(amp, bool):
        raise ValueError(f'amp is True or False, got {amp!r}.')
    return partial(torch.autocast, device.type, dtype=getattr(torch, amp_dtype), enabled=amp)
