"""Triton kernels of the graph operations, without anything of size N x M or (N, k, C) in memory.

Shapes are those of `graph.functional`. This module imports Triton; `graph.gpu` loads it when it is first needed.
"""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl

__all__ = ['launch_max_relative', 'launch_scatter_add', 'launch_search']

LEAST_KEY = tl.constexpr(-(2**63))


@triton.jit
def search_kernel(
    x_ptr,  # (B, N, G * C), any strides
    y_ptr,  # (B, M, G * C), any strides
    x_scale_ptr,  # (B, N, G) one over the length of each group of each node
    y_scale_ptr,  # (B, M, G)
    row_ptr,  # (H, M)
    col_ptr,  # (W, M)
    out_ptr,  # (B, G, N, K)
    N,
    M,
    W,
    x_stride_b,
    x_stride_n,
    x_stride_c,
    y_stride_b,
    y_stride_m,
    y_stride_c,
    G: tl.constexpr,
    C: tl.constexpr,  # of a group
    K: tl.constexpr,
    DILATION: tl.constexpr,
    NEAREST: tl.constexpr,
    SLOTS: tl.constexpr,  # power of two, NEAREST or the next
    HAS_POSITION: tl.constexpr,
    SCALE_LATER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The NEAREST best candidates of BLOCK_N queries, of which every DILATION-th is written."""
    image = (tl.program_id(1) // G).to(tl.int64)
    group = tl.program_id(1) % G
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = rows < N
    x_ptr += image * x_stride_b + group * C * x_stride_c
    y_ptr += image * y_stride_b + group * C * y_stride_c
    x_scale = tl.load(x_scale_ptr + (image * N + rows) * G + group, mask=row_mask, other=0.0)  # (BLOCK_N,)
    y_scale_ptr += image * M * G + group

    # A key is the score in its upper half and the candidate in its lower, so that the order of keys is that of scores
    # and, among equal scores, of candidates. No two keys are equal. Slots beyond NEAREST are full from the start.
    slots = tl.arange(0, SLOTS)[None, :]
    empty = LEAST_KEY + slots.to(tl.int64)  # distinct, and below every key
    best = tl.where(slots < NEAREST, empty, 2**63 - 1) + tl.zeros((BLOCK_N, SLOTS), tl.int64)  # (BLOCK_N, SLOTS)

    for start in range(0, M, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        col_mask = cols < M
        mask = row_mask[:, None] & col_mask[None, :]  # (BLOCK_N, BLOCK_M)
        y_scale = tl.load(y_scale_ptr + cols * G, mask=col_mask, other=0.0)  # (BLOCK_M,)
        scores = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for channel in range(0, C, BLOCK_C):
            channels = channel + tl.arange(0, BLOCK_C)
            x_tile = x_ptr + rows[:, None] * x_stride_n + channels[None, :] * x_stride_c
            y_tile = y_ptr + cols[None, :] * y_stride_m + channels[:, None] * y_stride_c
            x = tl.load(x_tile, mask=row_mask[:, None] & (channels < C)[None, :], other=0.0)  # (BLOCK_N, BLOCK_C)
            y = tl.load(y_tile, mask=col_mask[None, :] & (channels < C)[:, None], other=0.0)  # (BLOCK_C, BLOCK_M)
            if not SCALE_LATER:
                x = x.to(tl.float32) * x_scale[:, None]
                y = y.to(tl.float32) * y_scale[None, :]
            scores = tl.dot(x, y, scores, input_precision='ieee')  # tf32 would find other neighbours
        if SCALE_LATER:
            scores = scores * x_scale[:, None] * y_scale[None, :]
        term = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        if HAS_POSITION:
            row_tile = row_ptr + (rows // W)[:, None] * M + cols[None, :]
            col_tile = col_ptr + (rows % W)[:, None] * M + cols[None, :]
            term = tl.load(row_tile, mask=mask, other=0.0).to(tl.float32)
            term += tl.load(col_tile, mask=mask, other=0.0).to(tl.float32)
        scores = 2.0 * scores + term  # never -0.0, which would sort below 0.0: the zeros of the term see to that

        bits = scores.to(tl.int32, bitcast=True)
        order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the order of floats as integers, a NaN is an extreme
        keys = (order.to(tl.int64) << 32) | (0x7FFFFFFF - cols)[None, :].to(tl.int64)
        keys = tl.where(mask, keys, LEAST_KEY)

        # The best of the tile go in one after the other, each for the worst kept one. Only candidates that beat the
        # worst kept one count, and after the first tiles those are few: less work than sorting every tile.
        worst = tl.min(best, 1)  # (BLOCK_N,)
        rounds = tl.max(tl.sum((keys > worst[:, None]).to(tl.int32), 1), 0)
        for _ in range(0, tl.minimum(rounds, NEAREST)):
            top = tl.max(keys, 1)  # (BLOCK_N,)
            keys = tl.where(keys == top[:, None], LEAST_KEY, keys)
            best = tl.where(best == worst[:, None], tl.maximum(worst, top)[:, None], best)
            worst = tl.min(best, 1)

    best = tl.where(slots < NEAREST, best, LEAST_KEY)
    out_ptr += (tl.program_id(1).to(tl.int64) * N + rows) * K
    for i in range(0, NEAREST):
        top = tl.max(best, 1)
        best = tl.where(best == top[:, None], LEAST_KEY, best)
        tl.store(out_ptr + i // DILATION, 0x7FFFFFFF - (top & 0xFFFFFFFF), mask=row_mask & (i % DILATION == 0))


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


def _inverse_lengths(nodes: torch.Tensor, num_groups: int) -> torch.Tensor:
    """One over the length of each group of each node, bounded as in F.normalize: (B, N, C) -> (B, N, G)."""
    lengths = torch.linalg.vector_norm(nodes.unflatten(2, (num_groups, -1)), dim=-1, dtype=torch.float32)
    return lengths.clamp_(min=1e-12).reciprocal_()


def search_tile(queries: int, graphs: int) -> Tuple[int, int]:
    """Queries and candidates of a tile.

    2048 scores are 16 keys of 64 bits for each of 128 threads: the compiler reports at most 168 registers a thread for
    sm_90, so that three programs share a multiprocessor. Twice the tile takes up to 255, and spills in float32. 64
    queries are what one wgmma of 4 warps takes, and few candidates make few useless rounds of selection. Where 64
    queries a program leave some of the 132 multiprocessors of an H100 or H200 idle (label nodes, a single image), 16
    are taken. All of this is derived, not measured.
    """
    return (64, 32) if triton.cdiv(queries, 64) * graphs >= 132 else (16, 128)


def launch_search(
    x: torch.Tensor,
    y: torch.Tensor,
    dilation: int,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]],
    out: torch.Tensor,
) -> None:
    """Write the neighbours of x (B, N, C) among y (B, M, C) to out (B, G, N, k), contiguous int64."""
    B, N, _ = x.shape
    M = y.shape[1]
    G, k = out.shape[1], out.shape[3]
    C = x.shape[2] // G
    nearest = (k - 1) * dilation + 1
    # Products of half precision numbers are exact in float32, so that tensor cores can multiply the nodes as they are
    # and the lengths come later. float32 nodes are scaled first, like in F.normalize: their products could overflow.
    scale_later = x.dtype == y.dtype and x.dtype in (torch.float16, torch.bfloat16)
    block_n, block_m = search_tile(N, B * G)
    row_table, col_table = position if position is not None else (x, x)  # anything that is a pointer
    search_kernel[(triton.cdiv(N, block_n), B * G)](
        x,
        y,
        _inverse_lengths(x, G),
        _inverse_lengths(y, G),
        row_table.contiguous() if position is not None else row_table,
        col_table.contiguous() if position is not None else col_table,
        out,
        N,
        M,
        col_table.shape[0] if position is not None else 1,
        *x.stride(),
        *y.stride(),
        G=G,
        C=C,
        K=k,
        DILATION=dilation,
        NEAREST=nearest,
        SLOTS=triton.next_power_of_2(nearest),
        HAS_POSITION=position is not None,
        SCALE_LATER=scale_later,
        BLOCK_N=block_n,
        BLOCK_M=block_m,
        BLOCK_C=32 if C <= 32 or not scale_later else 64,  # float32 products run unrolled over the channels
        num_warps=4,
        num_stages=2,  # few steps over the channels, for which more buffers than two are not worth their registers
    )


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
