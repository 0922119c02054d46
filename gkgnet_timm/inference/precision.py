"""Whether mixed precision is worth it: some processors compute in half precision twice as fast, others far slower."""

import functools
import sys
import time
from typing import Union

import torch

from .device import Process

__all__ = ['agree_on_amp', 'choose_amp']

WORTH_IT = 1.3  # times the rate of float32: half precision costs accuracy
SIDES = dict(cpu=512)  # of matrices that take a millisecond or some
SIDE_OF_OTHERS = 4096
REPEAT = 5
ENOUGH = 0.05  # seconds of a product, to know


def _product_seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, b)[0, 0].item()  # waits for the device
    return time.perf_counter() - start


@functools.lru_cache(maxsize=None)
def speed_of_half(device: torch.device, amp_dtype: str) -> float:
    """Measure how many times as fast matrix products are in half precision as in float32, in some milliseconds."""
    side = SIDES.get(device.type, SIDE_OF_OTHERS)
    types = (torch.float32, getattr(torch, amp_dtype))
    pairs = [torch.ones(2, side, side, device=device, dtype=dtype) for dtype in types]
    for pair in pairs:
        _product_seconds(*pair)  # libraries start
    best = [float('inf')] * 2
    for _ in range(REPEAT):  # in turn: the machine may be at work for others
        best = [min(seconds, _product_seconds(*pair)) for seconds, pair in zip(best, pairs)]
        if max(best) > ENOUGH:  # a type for which the machine has no instructions
            break
    return best[0] / best[1]


def choose_amp(amp: Union[None, bool, str], amp_dtype: str, device: torch.device, prints: bool = True) -> bool:
    """Decide for or against mixed precision, and say so on stderr.

    Args:
        amp: 'auto' decides by the speed of matrix products on the device. True is obeyed, with a warning where half
            precision is slower.
        amp_dtype: bfloat16 or float16.
        device: Where the model runs.
        prints: Whether this process is the one that prints.

    Raises:
        ValueError: For another value of amp.
    """
    if amp not in (None, True, False, 'auto'):
        raise ValueError(f"amp is True, False or 'auto', got {amp!r}.")
    if not amp:
        return False
    ratio = speed_of_half(device, amp_dtype)
    chosen, message = True, ''
    if amp == 'auto':
        chosen = ratio >= WORTH_IT
        what = f'mixed precision in {amp_dtype}' if chosen else 'float32'
        message = f'--amp auto: {what}, as {amp_dtype} is {ratio:.1f} times as fast as float32 in matrix products.'
    elif ratio < 1:
        message = (
            f'Warning: matrix products in {amp_dtype} take {1 / ratio:.1f} times as long as in float32 on this '
            'machine: give --no-amp, or --amp auto.'
        )
    if message and prints:
        print(message, file=sys.stderr)
    return chosen


def agree_on_amp(amp: Union[None, bool, str], amp_dtype: str, process: Process) -> bool:
    """Decide as `choose_amp` does, the first process for all of a distributed run."""
    chosen = choose_amp(amp, amp_dtype, process.device, prints=process.is_primary)
    if process.is_distributed:
        shared = torch.tensor(int(chosen), device=process.device)
        torch.distributed.broadcast(shared, 0)
        chosen = bool(shared)
    return chosen
