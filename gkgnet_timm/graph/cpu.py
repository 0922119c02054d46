"""The CPU kernels of the operators: C, compiled for this machine when first needed, in about half a second.

Without a C compiler PyTorch does the work. If compiling fails, one warning says why.
"""

import ctypes
import functools
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Optional, Tuple

import torch

from ..runtime import one_line
from . import eager, operators, selection
from .library import load_library

__all__ = ['find_compiler', 'find_kernels', 'interleave_max_relative', 'scatter_to_winners', 'select_largest']
__all__ += ['unused_because']

_logger = logging.getLogger(__name__)
MOST = 128  # scores of a row that are selected, of cpu_kernels.c: a ViG has up to 69
_problem = ''  # why the kernels could not be made


def _bind(kernels: ctypes.CDLL) -> None:
    """Declare the functions of cpu_kernels.c."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernels.select_largest.argtypes = [pointer, number, number, ctypes.c_int, pointer, ctypes.c_int]
    kernels.select_largest.restype = None
    kernels.interleave_max_relative.argtypes = [*[pointer] * 3, *[number] * 8, *[pointer] * 2, *[ctypes.c_int] * 2]
    kernels.interleave_max_relative.restype = number
    kernels.scatter_to_winners.argtypes = [pointer, *[number] * 3, pointer, *[number] * 4, pointer, ctypes.c_int]
    kernels.scatter_to_winners.restype = number


def find_compiler() -> Optional[str]:
    """The command of the C compiler."""
    return os.environ.get('CC') or next(filter(shutil.which, ('cc', 'gcc', 'clang')), None)


def find_kernels(source: Path, bind: Callable[[ctypes.CDLL], None]) -> Optional[ctypes.CDLL]:
    """The functions of a C file, see `load_library`, or None, with a warning if they cannot be made."""
    global _problem
    compiler = find_compiler()
    if compiler is None:
        _problem = 'there is no C compiler'
        return None
    try:
        return load_library(compiler, source, bind)
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as e:
        # a compiler that stops, a folder without execution, ...
        _problem = one_line(e, 500)
        _logger.warning(f'CPU kernels are not used, models run slower: {_problem}')
        return None


@functools.lru_cache(maxsize=None)
def _load_kernels() -> Optional[ctypes.CDLL]:
    return find_kernels(Path(__file__).with_name('cpu_kernels.c'), _bind)


def unused_because() -> str:
    """Why PyTorch does the work of the kernels on this machine, '' if they do it."""
    return '' if _load_kernels() else _problem


@selection.select_largest.register_kernel('cpu')
def select_largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    kernels = _load_kernels()
    if kernels is None or scores.dtype != torch.float32 or not 0 < count <= min(MOST, scores.shape[-1]):
        return selection.select_by_topk(scores, count)
    scores = scores.contiguous()
    index = scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)
    rows = index.numel() // count
    kernels.select_largest(scores.data_ptr(), rows, scores.shape[-1], count, index.data_ptr(), torch.get_num_threads())
    return index


@operators.interleave_max_relative.register_kernel('cpu')
def interleave_max_relative(
    x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    kernels = _load_kernels()
    if kernels is None or x.dtype != y.dtype or x.dtype not in (torch.float32, torch.bfloat16):
        return eager.interleave_max_relative(x, y, neighbors, keep_winner)
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
    winner = x.new_empty((B, N, C) if keep_winner else (0,), dtype=torch.int32)
    wrong = kernels.interleave_max_relative(
        *(tensor.data_ptr() for tensor in (x, y, neighbors)),
        *(*neighbors.stride()[:2], B, N, M, G, C // G, k, out.data_ptr(), winner.data_ptr() if keep_winner else None),
        *(x.dtype == torch.bfloat16, torch.get_num_threads()),
    )
    if wrong:
        raise IndexError(f'{wrong} neighbors are not in the range of the {M} candidates.')
    return out, winner


@operators.scatter_to_winners.register_kernel('cpu')
def scatter_to_winners(grad: torch.Tensor, winner: torch.Tensor, candidates: int) -> torch.Tensor:
    kernels = _load_kernels()
    grad = grad.float() if grad.dtype == torch.bfloat16 else grad
    if kernels is None or grad.dtype != torch.float32 or winner.dtype != torch.int32:
        return eager.scatter_to_winners(grad, winner, candidates)
    if winner.shape != grad.shape or grad.ndim != 3:
        raise ValueError(f'Expected grad and winner (B, N, C), got {tuple(grad.shape)} and {tuple(winner.shape)}.')
    B, N, C = grad.shape
    winner = winner.contiguous()
    out = grad.new_empty(B, candidates, C)
    wrong = kernels.scatter_to_winners(
        *(grad.data_ptr(), *grad.stride(), winner.data_ptr(), B, N, candidates, C, out.data_ptr()),
        torch.get_num_threads(),
    )
    if wrong:
        raise IndexError(f'{wrong} winners are not in the range of the {candidates} candidates.')
    return out
