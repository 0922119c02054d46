"""The GPU kernels as operators of PyTorch: `torch.ops.gkgnet_timm.knn_neighbors` and `max_relative`.

As operators they are opaque to torch.compile, torch.export and autocast, and have gradients of their own. They are
registered without Triton, which is loaded for the first CUDA tensor. Where a kernel cannot be built or launched, one
warning says why and the eager functions of `gkgnet_timm.graph` do the work from then on.
"""

import logging
from importlib.util import find_spec
from typing import Optional, Tuple

import torch

__all__ = ['kernels_apply', 'knn_neighbors', 'max_relative']

_logger = logging.getLogger(__name__)

MAX_NEAREST = 32  # candidates that a kernel keeps for each query, in registers

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

_interpret = False  # tests: run the kernels on CPU tensors, through the interpreter of Triton

_usable = find_spec('triton') is not None  # until a kernel fails

_checked = False  # on this machine, before the first launch


def kernels_apply(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether there are kernels for nodes of this device and type."""
    return _usable and (x.is_cuda or _interpret) and x.dtype in DTYPES and y.dtype in DTYPES and x.numel() > 0


def _check_kernels(device: torch.device) -> None:
    """Raise a RuntimeError unless the kernels find on this device what the eager functions find."""
    from . import gpu_kernels as kernels
    from .eager import gather_max, search_neighbors

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, nodes, 80, generator=generator).to(device) for nodes in (70, 150))
    found = torch.empty(2, 2, 70, 9, dtype=torch.int64, device=device)
    kernels.launch_search(x, y, 2, None, found)
    expected = search_neighbors(x, y, 9, 2, 2, None)
    if (found == expected).float().mean() < 0.98:  # near-ties may be sorted otherwise
        raise RuntimeError('the search finds other neighbours than the eager one')
    out = torch.empty_like(x)
    kernels.launch_max_relative(x, y, expected, out, None)
    if not torch.equal(out, gather_max(y.reshape(-1, 40), expected, False)[0].view_as(x) - x):
        raise RuntimeError('max-relative gives other values than the eager one')


def _launch(kernel: str, x: torch.Tensor, *args) -> bool:
    """Run a launcher of `gkgnet_timm.kernels`.

    Returns:
        False if it failed, now or before, or if the nodes are not on a GPU.
    """
    global _usable, _checked
    if not _usable or not (x.is_cuda or _interpret):
        return False
    try:
        from . import gpu_kernels as kernels

        with torch.cuda.device_of(x):  # Triton launches on the current device
            if not _checked:
                _check_kernels(x.device)
                _checked = True
            getattr(kernels, kernel)(x, *args)
        return True
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # a compiler that is missing, an architecture that Triton does not know, ...
        _usable = False
        reason = ' '.join(str(e).split())[:500]
        _logger.warning(f'GPU kernels are not used, the graph runs slower: {type(e).__name__}: {reason}')
        return False


@torch.library.custom_op('gkgnet_timm::knn_neighbors', mutates_args=())
def knn_neighbors(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    dilation: int,
    num_groups: int,
    row_table: Optional[torch.Tensor],
    col_table: Optional[torch.Tensor],
) -> torch.Tensor:
    """`gkgnet_timm.graph.knn_neighbors` for k and dilation that fit: (k - 1) * dilation < M."""
    position = None if row_table is None or col_table is None else (row_table, col_table)
    out = x.new_empty(x.shape[0], num_groups, x.shape[1], k, dtype=torch.int64)
    if _launch('launch_search', x, y, dilation, position, out):
        return out
    from .eager import search_neighbors  # which imports this module

    return search_neighbors(x, y, k, dilation, num_groups, position)


@knn_neighbors.register_fake
def _(x, y, k, dilation, num_groups, row_table, col_table):
    return x.new_empty(x.shape[0], num_groups, x.shape[1], k, dtype=torch.int64)


@torch.library.custom_op('gkgnet_timm::max_relative', mutates_args=())
def max_relative(
    x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    """`gkgnet_timm.graph.max_relative`, and the candidate that each element of it is from.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        neighbors: Indices into M per channel group (B, G, N, k).
        keep_winner: Whether the gradient of y is needed.

    Returns:
        Aggregated features (B, N, C), and indices into M (B, N, C) or nothing (0,), int32.
    """
    B, N, C = x.shape
    M, G = y.shape[1], neighbors.shape[1]
    out = x.new_empty(B, N, C, dtype=torch.promote_types(x.dtype, y.dtype))
    winner = x.new_empty((B, N, C) if keep_winner else (0,), dtype=torch.int32)
    if _launch('launch_max_relative', x, y, neighbors, out, winner if keep_winner else None):
        return out, winner
    from .eager import gather_max  # which imports this module

    largest, row = gather_max(y.reshape(-1, C // G), neighbors, keep_winner)
    if keep_winner:
        winner = (row // G % M).to(torch.int32).view(B, N, C)
    return torch.sub(largest.view(B, N, C), x, out=out), winner


@max_relative.register_fake
def _(x, y, neighbors, keep_winner):
    out = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, y.dtype))
    return out, x.new_empty(x.shape if keep_winner else (0,), dtype=torch.int32)


@torch.library.custom_op('gkgnet_timm::scatter_to_winners', mutates_args=())
def scatter_to_winners(grad: torch.Tensor, winner: torch.Tensor, candidates: int) -> torch.Tensor:
    """The gradient of the candidates of `max_relative` in float32: 2 x (B, N, C) -> (B, M, C)."""
    B, N, C = grad.shape
    out = grad.new_zeros(B, candidates, C, dtype=torch.promote_types(grad.dtype, torch.float32))
    # the atomic additions of the kernel come in any order
    if not torch.are_deterministic_algorithms_enabled() and _launch('launch_scatter_add', grad, winner, out):
        return out
    image = torch.arange(B, device=grad.device).view(B, 1, 1)
    place = (winner + image * candidates) * C + torch.arange(C, device=grad.device)  # (B, N, C)
    # of one dimension it is deterministic on a GPU where that is asked for
    out.view(-1).scatter_add_(0, place.view(-1), grad.to(out.dtype).reshape(-1))
    return out


@scatter_to_winners.register_fake
def _(grad, winner, candidates):
    dtype = torch.promote_types(grad.dtype, torch.float32)
    return grad.new_empty(grad.shape[0], candidates, grad.shape[2], dtype=dtype)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, y, _, keep_winner = inputs
    if ctx.needs_input_grad[1] and not keep_winner:
        raise RuntimeError('gkgnet_timm::max_relative needs keep_winner=True for a gradient of y.')
    ctx.save_for_backward(output[1])
    ctx.candidates = y.shape[1]
    ctx.x_dtype, ctx.y_dtype = x.dtype, y.dtype


def _max_relative_backward(ctx, grad, _) -> Tuple[Optional[torch.Tensor], ...]:
    (winner,) = ctx.saved_tensors
    grad_x = grad_y = None
    if ctx.needs_input_grad[0]:
        grad_x = grad.neg().to(ctx.x_dtype)
    if ctx.needs_input_grad[1]:
        grad_y = scatter_to_winners(grad, winner, ctx.candidates).to(ctx.y_dtype)
    return grad_x, grad_y, None, None


max_relative.register_autograd(_max_relative_backward, setup_context=_keep_for_backward)
