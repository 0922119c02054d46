"""The largest scores of every row: the selection of the neighbour search.

On a CPU `torch.topk` would take a fifth of a model's time at 576 px. `selection.c` does its work in a quarter of that.
It is compiled for the machine when it is first needed, in a third of a second. Without a C compiler `torch.topk` stays,
and where compiling fails, for want of OpenMP say, one warning tells why.
"""

import ctypes
import functools
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

import torch

__all__ = ['select']

_logger = logging.getLogger(__name__)

MOST = 32  # of selection.c

_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)  # the former since torch 2.7


def select_by_topk(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`select` in PyTorch.

    Where torch would partition the row, the `count` blocks with the largest maxima hold all of them, and are searched
    instead. Blocks are strided, so that the maxima are taken over whole rows of memory.
    """
    M = scores.shape[-1]
    size = 9 if M % 9 == 0 else 8 if M % 8 == 0 else 1
    if count * 64 <= M or count >= M // size or size == 1:
        return scores.topk(count, dim=-1)[1]
    step = M // size  # block b is b, b + step, b + 2 * step, ...
    maxima = scores.unflatten(-1, [size, step]).amax(-2)  # (..., M) -> (..., size, step) -> (..., step)
    blocks = maxima.topk(count, dim=-1, sorted=False)[1].unsqueeze(-2)  # (..., 1, count)
    offsets = torch.arange(0, M, step, device=scores.device).unsqueeze(-1)  # (size, 1)
    columns = (blocks + offsets).flatten(-2)  # (..., size, count) -> (..., size * count)
    return columns.gather(-1, scores.gather(-1, columns).topk(count, dim=-1)[1])


def _compile(compiler: str, folder: str) -> ctypes.CDLL:
    source, library = Path(__file__).with_name('selection.c'), Path(folder) / 'selection.so'
    flags = ['-O3', '-march=native', '-fno-fast-math', '-fopenmp', '-shared', '-fPIC']
    command = [*shlex.split(compiler), *flags, str(source), '-o', str(library)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f'{shlex.join(command)}: {done.stderr.strip() or done.returncode}')
    return ctypes.CDLL(str(library))  # stays mapped when the file is gone


@functools.lru_cache(maxsize=None)
def _load_kernel() -> Optional[ctypes._CFuncPtr]:
    """`select_largest` of selection.c, or None with one warning where it can't be made."""
    compiler = os.environ.get('CC') or next(filter(shutil.which, ('cc', 'gcc', 'clang')), None)
    if compiler is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            kernel = _compile(compiler, folder).select_largest
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as e:
        # no OpenMP, a folder without execution, ...
        reason = ' '.join(str(e).split())[:500]
        _logger.warning(f'The CPU kernel is not used, the graph runs slower: {reason}')
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, number, number, ctypes.c_int, pointer, ctypes.c_int]
    kernel.restype = None
    return kernel


@torch.library.custom_op('gkgnet_timm::select_largest', mutates_args=(), device_types='cpu')
def select_largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`select` by the kernel, for float32 scores and at most MOST of them; by PyTorch otherwise."""
    kernel = _load_kernel()
    if kernel is None or scores.dtype != torch.float32 or not 0 < count <= min(MOST, scores.shape[-1]):
        return select_by_topk(scores, count)
    scores = scores.contiguous()
    index = scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)
    rows = index.numel() // count
    kernel(scores.data_ptr(), rows, scores.shape[-1], count, index.data_ptr(), torch.get_num_threads())
    return index


@select_largest.register_fake
def _(scores, count):
    return scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)


def select(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the largest scores of each row, largest first: (..., M) -> (..., count).

    Of equal scores any may come first; a row with NaN gets some indices, even twice. A graph that is traced or exported
    is of operators of PyTorch alone.
    """
    if not torch.jit.is_scripting():
        is_portable = torch.jit.is_tracing() or _is_exporting()
        if scores.device.type == 'cpu' and scores.dtype == torch.float32 and count <= MOST and not is_portable:
            return select_largest(scores, count)
    return select_by_topk(scores, count)
