"""Rows of all ranks in the memory of the first, what it finds there for all, and errors that all hear of."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional, Sequence, TypeVar

import torch
import torch.distributed as dist

from ..runtime import one_line

__all__ = ['gather_rows', 'on_first_rank', 'together']

CHUNK = 1 << 25  # bytes on the device at a time
SIGN = 30.0  # seconds between signs of life, far below the time after which PyTorch ends a run
Result = TypeVar('Result')


def _give_signs(ended: threading.Event, is_done: torch.Tensor) -> None:
    """Tell the other ranks that this one is at work, so that their wait is not taken for a failure, until it ends."""
    while not is_done:
        is_done.fill_(ended.wait(SIGN))
        dist.broadcast(is_done, src=0)


def on_first_rank(work: Callable[[], Result], device: Optional[torch.device] = None) -> Result:
    """Do work in the first rank alone; all ranks return its result or raise its error. One process just does it.

    Args:
        work: Its result is small: it is sent to all ranks.
        device: Device of the collectives.

    Raises:
        ValueError: As the first rank.
        RuntimeError: For another error of the first rank, in the others.
    """
    if not dist.is_initialized():
        return work()
    result, error = None, None
    is_done = torch.zeros(1, dtype=torch.uint8, device=device)
    if dist.get_rank() == 0:
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            sign = pool.submit(_give_signs, ended, is_done)
            try:
                result = work()
            except Exception as caught:  # whatever it is, the other ranks wait for this one
                error = caught
            finally:
                ended.set()
            sign.result()
    while not is_done:
        dist.broadcast(is_done, src=0)
    message = one_line(error, 10_000) if isinstance(error, ValueError) else error and repr(error)
    outcome = [result, isinstance(error, ValueError), message]
    dist.broadcast_object_list(outcome, src=0, device=device)
    if error:
        raise error
    result, is_value_error, message = outcome
    if message:
        raise ValueError(message) if is_value_error else RuntimeError(f'The first process failed: {message}')
    return result


@contextmanager
def together() -> Iterator[None]:
    """Wait for all ranks at the end of a step, or of a decorated function, that has no collectives: if one fails, all
    do. A rank that went on alone would mix its next rows with those that the others have now.

    Raises:
        RuntimeError: In ranks that did not fail.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    problems: List[Optional[str]] = [error and f'{type(error).__name__}: {one_line(error, 2000)}']
    if dist.is_initialized():
        problems *= dist.get_world_size()
        dist.all_gather_object(problems, problems[0])
    if error:
        raise error
    for rank, problem in enumerate(problems):
        if problem:
            raise RuntimeError(f'Process {rank} failed: {problem}')


def gather_rows(
    rows: torch.Tensor, counts: List[int], places: Sequence[torch.Tensor], device: torch.device
) -> Optional[torch.Tensor]:
    """Gather the rows of all ranks in the memory of the first, which returns them; others return None.

    Beside rows and result, 100 MB at most are taken, on the device and on the CPU.

    Args:
        rows: (counts[rank], D) of this rank, on the CPU.
        counts: Number of rows of each rank.
        places: In the first rank, where the rows of each rank belong in the result (others: empty).
        device: Device of the collectives.
    """
    world_size, is_first = dist.get_world_size(), dist.get_rank() == 0
    whole: List[torch.Tensor] = []
    # where this memory is lacking, the others must hear of it
    on_first_rank(lambda: whole.append(rows.new_empty(sum(counts), rows.shape[1])), device)
    step = max(1, CHUNK // (world_size * max(1, rows.shape[1]) * rows.element_size()))
    for start in range(0, max(counts), step):
        own = rows[start : start + step]
        part = torch.zeros(min(step, max(counts) - start), rows.shape[1], dtype=rows.dtype, device=device)
        part[: len(own)] = own.to(device)
        parts = [torch.empty_like(part) for _ in counts] if is_first else None
        dist.gather(part, parts)
        for place, part in zip(places, parts or ()):
            place = place[start : start + step]
            whole[0][place] = part[: len(place)].cpu()
    return whole[0] if is_first else None
