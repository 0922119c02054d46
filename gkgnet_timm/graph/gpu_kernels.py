"""Triton kernels of the graph operations, without anything of size N x M or (N, k, C) in memory.

Shapes are those of `graph.functional`. This module imports Triton; `graph.gpu` loads it when it is first needed.
"""

from typing import Optional

import torch
import triton
import triton.language as tl

from .gpu_search import launch_search

__all__ = ['launch_max_relative', 'launch_scatter_add', 'launch_search']


@triton.jit
def max_relative_kernel(
    x_ptr,  # (B, N, G * C), any strides
    y_ptr,  # (B, M, G * C)
    neighbors_ptr,  # (B, G, N, K)
    out_ptr,  # (B, N, G * C * 2)
    winner_ptr,  # (B, N, G * C)
    N,
    M,
    x_stride_b,
    x_stride_n,
    x_stride_c,
    G: tl.constexpr,
    C: tl.constexpr,  # of a group
    K: tl.constexpr,
    KEEP_WINNER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The query, and the largest neighbour less the query, in BLOCK_N x BLOCK_C channels of one group."""
    image = (tl.program_id(1) // G).to(tl.int64)
    group = tl.program_id(1) % G
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = rows < N
    in_group = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    channels = group * C + in_group
    mask = row_mask[:, None] & (in_group < C)[None, :]  # (BLOCK_N, BLOCK_C)
    neighbors_ptr += (tl.program_id(1).to(tl.int64) * N + rows) * K
    y_ptr += image * M * G * C

    index = tl.load(neighbors_ptr, mask=row_mask, other=0)  # (BLOCK_N,)
    largest = tl.load(y_ptr + index[:, None] * (G * C) + channels[None, :], mask=mask, other=0.0)
    largest = largest.to(tl.float32)
    winner = index.to(tl.int32)[:, None] + tl.zeros((BLOCK_N, BLOCK_C), tl.int32)
    for j in tl.static_range(1, K):
        index = tl.load(neighbors_ptr + j, mask=row_mask, other=0)
        value = tl.load(y_ptr + index[:, None] * (G * C) + channels[None, :], mask=mask, other=0.0)
        value = value.to(tl.float32)
        larger = (value > largest) | (value != value)  # the first of equals stays, a NaN spreads as in torch.maximum
        largest = tl.where(larger, value, largest)
        if KEEP_WINNER:
            winner = tl.where(larger, index.to(tl.int32)[:, None], winner)

    x_tile = x_ptr + image * x_stride_b + rows[:, None] * x_stride_n + channels[None, :] * x_stride_c
    x = tl.load(x_tile, mask=mask, other=0.0).to(tl.float32)
    out = tl.interleave(x, largest - x).to(out_ptr.dtype.element_ty)  # (BLOCK_N, 2 * BLOCK_C)
    node = (image * N + rows)[:, None] * (G * C)
    in_pairs = tl.program_id(2) * BLOCK_C * 2 + tl.arange(0, 2 * BLOCK_C)
    pair_mask = row_mask[:, None] & (in_pairs < 2 * C)[None, :]
    tl.store(out_ptr + 2 * node + (2 * group * C + in_pairs)[None, :], out, mask=pair_mask)
    if KEEP_WINNER:
        tl.store(winner_ptr + node + channels[None, :], winner, mask=mask)


@triton.jit
def scatter_add_kernel(
    grad_ptr,  # (B, N, C), any strides
    winner_ptr,  # (B, N, C)
    out_ptr,  # (B, M, C)
    N,
    M,
    grad_stride_b,
    grad_stride_n,
    grad_stride_c,
    C: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add each gradient to the candidate that won."""
    image = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    channels = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (rows < N)[:, None] & (channels < C)[None, :]  # (BLOCK_N, BLOCK_C)
    grad_tile = grad_ptr + image * grad_stride_b + rows[:, None] * grad_stride_n + channels[None, :] * grad_stride_c
    grad = tl.load(grad_tile, mask=mask, other=0.0).to(tl.float32)
    winner = tl.load(winner_ptr + (image * N + rows)[:, None] * C + channels[None, :], mask=mask, other=0)
    tl.atomic_add(out_ptr + (image * M + winner) * C + channels[None, :], grad, mask=mask, sem='relaxed')


def launch_max_relative(
    x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor, out: torch.Tensor, winner: Optional[torch.Tensor]
) -> None:
    """Write x_i and the largest y_j - x_i to out (B, N, 2C), and j to winner (B, N, C), contiguous."""
    B, N, _ = x.shape
    G, k = neighbors.shape[1], neighbors.shape[3]
    C = x.shape[2] // G
    # 8 channels a thread, that is one 16-byte load of each gathered row in half precision
    block_c = min(128, triton.next_power_of_2(C))
    block_n = 1024 // block_c
    max_relative_kernel[(triton.cdiv(N, block_n), B * G, triton.cdiv(C, block_c))](
        x,
        y.contiguous(),  # k gathers of scattered channels would read far more than one copy
        neighbors.contiguous(),
        out,
        out if winner is None else winner,
        N,
        y.shape[1],
        *x.stride(),
        G=G,
        C=C,
        K=k,
        KEEP_WINNER=winner is not None,
        BLOCK_N=block_n,
        BLOCK_C=block_c,
        num_warps=4,
    )


def launch_scatter_add(grad: torch.Tensor, winner: torch.Tensor, out: torch.Tensor) -> None:
    """Add grad (B, N, C) to the rows of out (B, M, C) that winner (B, N, C) names; out is contiguous float32."""
    B, N, C = grad.shape
    block_c = min(128, triton.next_power_of_2(C))
    block_n = 1024 // block_c
    scatter_add_kernel[(triton.cdiv(N, block_n), B, triton.cdiv(C, block_c))](
        grad, winner, out, N, out.shape[1], *grad.stride(), C=C, BLOCK_N=block_n, BLOCK_C=block_c, num_warps=4
    )
