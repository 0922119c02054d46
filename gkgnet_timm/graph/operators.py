"""The graph operations as operators of PyTorch, `torch.ops.gkgnet_timm`: schema, shapes and gradient.

By default an operator is the eager function of its name. `cpu` and `gpu` register kernels for their devices. As
operators they are opaque to torch.compile and autocast.
"""

from typing import Optional, Tuple

import torch

from . import eager

__all__ = ['interleave_max_relative', 'knn_neighbors', 'scatter_to_winners']


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
    """`functional.knn_neighbors` for k and dilation that fit: (k - 1) * dilation < M. It has no gradient."""
    position = None if row_table is None or col_table is None else (row_table, col_table)
    return eager.search_neighbors(x, y, k, dilation, num_groups, position)


@knn_neighbors.register_fake
def _(x, y, k, dilation, num_groups, row_table, col_table):
    return x.new_empty(x.shape[0], num_groups, x.shape[1], k, dtype=torch.int64)


@torch.library.custom_op('gkgnet_timm::interleave_max_relative', mutates_args=())
def interleave_max_relative(
    x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    """`functional.interleave_max_relative`, and the candidate that each maximum is from.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        neighbors: Indices into M per channel group (B, G, N, k).
        keep_winner: Whether the gradient of y is needed.

    Returns:
        Interleaved features (B, N, 2C), and indices into M (B, N, C) or nothing (0,), int32.
    """
    return eager.interleave_max_relative(x, y, neighbors, keep_winner)


@interleave_max_relative.register_fake
def _(x, y, neighbors, keep_winner):
    B, N, C = x.shape
    out = x.new_empty(B, N, 2 * C, dtype=torch.promote_types(x.dtype, y.dtype))
    return out, x.new_empty((B, N, C) if keep_winner else (0,), dtype=torch.int32)


@torch.library.custom_op('gkgnet_timm::scatter_to_winners', mutates_args=())
def scatter_to_winners(grad: torch.Tensor, winner: torch.Tensor, candidates: int) -> torch.Tensor:
    """Add each gradient to the candidate that it is of, in at least float32: 2 x (B, N, C) -> (B, M, C)."""
    return eager.scatter_to_winners(grad, winner, candidates)


@scatter_to_winners.register_fake
def _(grad, winner, candidates):
    dtype = torch.promote_types(grad.dtype, torch.float32)
    return grad.new_empty(grad.shape[0], candidates, grad.shape[2], dtype=dtype)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, y, _, keep_winner = inputs
    if ctx.needs_input_grad[1] and not keep_winner:
        raise RuntimeError('gkgnet_timm::interleave_max_relative needs keep_winner=True for a gradient of y.')
    ctx.save_for_backward(output[1])
    ctx.candidates = y.shape[1]
    ctx.x_dtype, ctx.y_dtype = x.dtype, y.dtype


def _split_gradient(ctx, grad, _) -> Tuple[Optional[torch.Tensor], ...]:
    (winner,) = ctx.saved_tensors
    own, relative = grad.unflatten(2, (-1, 2)).unbind(3)  # (B, N, 2C) -> (B, N, C, 2) -> 2 x (B, N, C)
    grad_x = grad_y = None
    if ctx.needs_input_grad[0]:
        grad_x = own.to(ctx.x_dtype) - relative.to(ctx.x_dtype)
    if ctx.needs_input_grad[1]:
        grad_y = scatter_to_winners(relative, winner, ctx.candidates).to(ctx.y_dtype)
    return grad_x, grad_y, None, None


interleave_max_relative.register_autograd(_split_gradient, setup_context=_keep_for_backward)


def _keep_winner(ctx, inputs, output) -> None:
    grad, winner, _ = inputs
    ctx.save_for_backward(winner)
    ctx.dtype = grad.dtype


def _gather_from_winners(ctx, grad) -> Tuple[Optional[torch.Tensor], ...]:
    return grad.gather(1, ctx.saved_tensors[0].long()).to(ctx.dtype), None, None


scatter_to_winners.register_autograd(_gather_from_winners, setup_context=_keep_winner)  # for second derivatives
