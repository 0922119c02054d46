"""The GPU kernels of the operators: Triton, loaded for the first CUDA tensor and checked before its first use.

Where a kernel cannot be built, launched or trusted, one warning says why, and PyTorch does the work from then on.
"""

import logging
from importlib.util import find_spec
from typing import Optional, Tuple

import torch

from ..runtime import one_line
from . import eager, operators

__all__ = ['aggregate', 'scatter', 'search', 'unused_because']

_logger = logging.getLogger(__name__)
MAX_NEAREST = 32  # candidates that a kernel keeps for each query, in registers
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_usable = find_spec('triton') is not None  # until a kernel fails
_problem = '' if _usable else 'there is no Triton'
_checked = False  # on this machine, before the first launch


def _check_kernels(kernels, device: torch.device) -> None:
    """Raise a RuntimeError unless the kernels find on this device what the eager functions find."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, nodes, 80, generator=generator).to(device) for nodes in (70, 150))
    found = torch.empty(2, 2, 70, 9, dtype=torch.int64, device=device)
    kernels.launch_search(x, y, 2, None, found)
    expected = eager.search_neighbors(x, y, 9, 2, 2, None)
    if (found == expected).float().mean() < 0.98:  # near-ties may be sorted otherwise
        raise RuntimeError('the search finds other neighbours than the eager one')
    out = x.new_empty(2, 70, 160)
    kernels.launch_max_relative(x, y, expected, out, None)
    if not torch.equal(out, eager.interleave_max_relative(x, y, expected, False)[0]):
        raise RuntimeError('max-relative gives other values than the eager one')


def _launch(kernel: str, x: torch.Tensor, *args) -> bool:
    """Run a launcher of `gpu_kernels`; False if it failed, now or before."""
    global _usable, _checked, _problem
    if not _usable:
        return False
    try:
        from . import gpu_kernels  # Triton

        with torch.cuda.device_of(x):  # Triton launches on the current device
            if not _checked:
                _check_kernels(gpu_kernels, x.device)
                _checked = True
            getattr(gpu_kernels, kernel)(x, *args)
        return True
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # a compiler that is missing, an architecture that Triton does not know, ...
        _usable = False
        _problem = f'{type(e).__name__}: {one_line(e, 500)}'
        _logger.warning(f'GPU kernels are not used, the graph runs slower: {_problem}')
        return False


def unused_because() -> str:
    """Why PyTorch does the work of the kernels on this machine, as far as they were called, '' if they do it."""
    return _problem


def _has_kernels(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.dtype in DTYPES and y.dtype in DTYPES and x.numel() > 0


@operators.knn_neighbors.register_kernel('cuda')
def search(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    dilation: int,
    num_groups: int,
    row_table: Optional[torch.Tensor],
    col_table: Optional[torch.Tensor],
) -> torch.Tensor:
    position = None if row_table is None or col_table is None else (row_table, col_table)
    if _has_kernels(x, y) and (k - 1) * dilation < MAX_NEAREST:
        out = x.new_empty(x.shape[0], num_groups, x.shape[1], k, dtype=torch.int64)
        if _launch('launch_search', x, y, dilation, position, out):
            return out
    return eager.search_neighbors(x, y, k, dilation, num_groups, position)


@operators.interleave_max_relative.register_kernel('cuda')
def aggregate(
    x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    if _has_kernels(x, y):
        B, N, C = x.shape
        out = x.new_empty(B, N, 2 * C, dtype=torch.promote_types(x.dtype, y.dtype))
        winner = x.new_empty((B, N, C) if keep_winner else (0,), dtype=torch.int32)
        if _launch('launch_max_relative', x, y, neighbors, out, winner if keep_winner else None):
            return out, winner
    return eager.interleave_max_relative(x, y, neighbors, keep_winner)


@operators.scatter_to_winners.register_kernel('cuda')
def scatter(grad: torch.Tensor, winner: torch.Tensor, candidates: int) -> torch.Tensor:
    # the atomic additions of the kernel come in any order
    if _has_kernels(grad, grad) and not torch.are_deterministic_algorithms_enabled():
        out = grad.new_zeros(grad.shape[0], candidates, grad.shape[2], dtype=torch.float32)
        if _launch('launch_scatter_add', grad, winner, out):
            return out
    return eager.scatter_to_winners(grad, winner, candidates)
