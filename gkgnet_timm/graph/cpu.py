"""The CPU kernels as operators of PyTorch: `torch.ops.gkgnet_timm.select_largest` and `interleave_max_relative`.

`cpu_kernels.c` is compiled for the machine when it is first needed, in a third of a second. Without a C compiler the
work is PyTorch's, and where compiling fails, for want of OpenMP say, one warning tells why.
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

__all__ = ['interleave_max_relative', 'kernels_apply', 'select_largest']

_logger = logging.getLogger(__name__)

MOST = 32  # scores of a row that are selected, of cpu_kernels.c

_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)  # the former since torch 2.7


def kernels_apply(*tensors: torch.Tensor) -> bool:
    """Whether there are kernels for tensors of this device and type, float32 or bfloat16.

    A graph that is traced or exported is of operators of PyTorch alone.
    """
    dtype = tensors[0].dtype
    if torch.jit.is_tracing() or _is_exporting() or dtype not in (torch.float32, torch.bfloat16):
        return False
    return all(tensor.device.type == 'cpu' and tensor.dtype == dtype for tensor in tensors)


def _compile(compiler: str, folder: str) -> ctypes.CDLL:
    source, library = Path(__file__).with_name('cpu_kernels.c'), Path(folder) / 'cpu_kernels.so'
    flags = ['-O3', '-march=native', '-fno-fast-math', '-fopenmp', '-shared', '-fPIC']
    command = [*shlex.split(compiler), *flags, str(source), '-o', str(library)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f'{shlex.join(command)}: {done.stderr.strip() or done.returncode}')
    kernels = ctypes.CDLL(str(library))  # stays mapped when the file is gone
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernels.select_largest.argtypes = [pointer, number, number, ctypes.c_int, pointer, ctypes.c_int]
    kernels.select_largest.restype = None
    kernels.interleave_max_relative.argtypes = [*[pointer] * 3, *[number] * 8, pointer, *[ctypes.c_int] * 2]
    kernels.interleave_max_relative.restype = number
    return kernels


@functools.lru_cache(maxsize=None)
def _load_kernels() -> Optional[ctypes.CDLL]:
    """The functions of cpu_kernels.c, or None with one warning where they can't be made."""
    compiler = os.environ.get('CC') or next(filter(shutil.which, ('cc', 'gcc', 'clang')), None)
    if compiler is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _compile(compiler, folder)
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as e:
        # no OpenMP, a folder without execution, ...
        reason = ' '.join(str(e).split())[:500]
        _logger.warning(f'CPU kernels are not used, the graph runs slower: {reason}')
        return None


@torch.library.custom_op('gkgnet_timm::select_largest', mutates_args=(), device_types='cpu')
def select_largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`gkgnet_timm.selection.select`, by the kernel for float32 scores and at most MOST of them."""
    kernels = _load_kernels()
    if kernels is None or scores.dtype != torch.float32 or not 0 < count <= min(MOST, scores.shape[-1]):
        from .selection import select_by_topk  # which imports this module

        return select_by_topk(scores, count)
    scores = scores.contiguous()
    index = scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)
    rows = index.numel() // count
    kernels.select_largest(scores.data_ptr(), rows, scores.shape[-1], count, index.data_ptr(), torch.get_num_threads())
    return index


@select_largest.register_fake
def _(scores, count):
    return scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)


@torch.library.custom_op('gkgnet_timm::interleave_max_relative', mutates_args=(), device_types='cpu')
def interleave_max_relative(x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """`gkgnet_timm.graph.interleave_max_relative`, without gradients."""
    kernels = _load_kernels()
    if kernels is None or not kernels_apply(x, y):
        from .eager import interleave
        from .functional import max_relative  # which imports this module

        return interleave(x, max_relative(x, y, neighbors))
    B, N, C = x.shape
    M, G, k = y.shape[1], neighbors.shape[1], neighbors.shape[-1]
    is_index = not (neighbors.is_floating_point() or neighbors.is_complex()) and G > 0 and k > 0 and C % G == 0
    if y.shape != (B, M, C) or neighbors.shape != (B, G, N, k) or not is_index:
        shapes = f'{tuple(x.shape)}, {tuple(y.shape)} and {tuple(neighbors.shape)}'
        raise ValueError(f'Expected x (B, N, C), y (B, M, C) and integers (B, groups, N, k), got {shapes}.')
    x, y, neighbors = x.contiguous(), y.contiguous(), neighbors.to(torch.int64)
    if neighbors.stride()[2:] != (k, 1):
        neighbors = neighbors.contiguous()
    out = x.new_empty(B, N, 2 * C)
    strides = neighbors.stride()[:2]
    wrong = kernels.interleave_max_relative(
        *(tensor.data_ptr() for tensor in (x, y, neighbors)),
        *(*strides, B, N, M, G, C // G, k, out.data_ptr(), x.dtype == torch.bfloat16, torch.get_num_threads()),
    )
    if wrong:
        raise IndexError(f'{wrong} neighbors are not in the range of the {M} candidates.')
    return out


@interleave_max_relative.register_fake
def _(x, y, neighbors):
    return x.new_empty(x.shape[0], x.shape[1], 2 * x.shape[2])
