"""The Triton kernels of the neighbour search, of which `graph.gpu_kernels` is the door."""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl

__all__ = ['launch_search']

LEAST_KEY = tl.constexpr(-(2**63))
LEAST = tl.constexpr(-(2**31))
LAST = tl.constexpr(2**31 - 1)


@triton.jit
def inverse_length_kernel(
    nodes_ptr,  # (B, N, G * C), any strides
    out_ptr,  # (B, N, G)
    N,
    stride_b,
    stride_n,
    stride_c,
    G: tl.constexpr,
    C: tl.constexpr,  # of a group
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One over the length of each group of each node, bounded as in F.normalize."""
    image = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # groups of nodes
    mask = rows < N * G
    row_ptr = nodes_ptr + image * stride_b + (rows // G) * stride_n + (rows % G) * C * stride_c  # (BLOCK_N,)
    squares = tl.zeros((BLOCK_N,), tl.float32)
    for channel in range(0, C, BLOCK_C):
        channels = channel + tl.arange(0, BLOCK_C)
        tile = row_ptr[:, None] + channels[None, :] * stride_c  # (BLOCK_N, BLOCK_C)
        values = tl.load(tile, mask=mask[:, None] & (channels < C)[None, :], other=0.0).to(tl.float32)
        squares += tl.sum(values * values, 1)
    tl.store(out_ptr + image * N * G + rows, 1.0 / tl.maximum(tl.sqrt(squares), 1e-12), mask=mask)


@triton.jit
def score_tile(
    x,  # (BLOCK_N, BLOCK_C) queries, if they FIT
    x_ptr,
    y_ptr,
    x_scale,  # (BLOCK_N,)
    y_scale_ptr,
    row_ptr,
    col_ptr,
    rows,  # (BLOCK_N,)
    start,
    N,
    M,
    W,
    x_stride_n,
    x_stride_c,
    y_stride_m,
    y_stride_c,
    G: tl.constexpr,
    C: tl.constexpr,
    HAS_POSITION: tl.constexpr,
    SCALE_LATER: tl.constexpr,
    FIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Scores (BLOCK_N, BLOCK_M) of candidates from start on, as integers in the order of floats."""
    row_mask = rows < N
    cols = start + tl.arange(0, BLOCK_M)
    col_mask = cols < M
    mask = row_mask[:, None] & col_mask[None, :]  # (BLOCK_N, BLOCK_M)
    y_scale = tl.load(y_scale_ptr + cols * G, mask=col_mask, other=0.0)  # (BLOCK_M,)
    scores = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for channel in range(0, C, BLOCK_C):
        channels = channel + tl.arange(0, BLOCK_C)
        if not FIT:
            x_tile = x_ptr + rows[:, None] * x_stride_n + channels[None, :] * x_stride_c
            x = tl.load(x_tile, mask=row_mask[:, None] & (channels < C)[None, :], other=0.0)  # (BLOCK_N, BLOCK_C)
            if not SCALE_LATER:
                x = x.to(tl.float32) * x_scale[:, None]
        y_tile = y_ptr + cols[None, :] * y_stride_m + channels[:, None] * y_stride_c
        y = tl.load(y_tile, mask=col_mask[None, :] & (channels < C)[:, None], other=0.0)  # (BLOCK_C, BLOCK_M)
        if not SCALE_LATER:
            y = y.to(tl.float32) * y_scale[None, :]
        scores = tl.dot(x, y, scores, input_precision=PRECISION)
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
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # a NaN is an extreme
    return tl.where(mask, order, LEAST)


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
    PRECISION: tl.constexpr,
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
    FIT: tl.constexpr = C <= BLOCK_C
    channels = tl.arange(0, BLOCK_C)
    x_tile = x_ptr + rows[:, None] * x_stride_n + channels[None, :] * x_stride_c
    x = tl.load(x_tile, mask=row_mask[:, None] & (channels < C)[None, :], other=0.0)  # (BLOCK_N, BLOCK_C)
    if not SCALE_LATER:
        x = x.to(tl.float32) * x_scale[:, None]

    # A lane, one column of all tiles, keeps its three best, which takes no look at other lanes. The best of all lanes
    # are the nearest, unless one that a lane has lost is as good as the last of them.
    lanes = tl.arange(0, BLOCK_M)[None, :]
    slots = tl.arange(0, SLOTS)[None, :]
    first = tl.full((BLOCK_N, BLOCK_M), LEAST, tl.int32)
    second, third, lost = first, first, first
    first_at = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)  # start of the tile
    second_at, third_at = first_at, first_at
    for start in range(0, M, BLOCK_M):
        scores = score_tile(
            x, x_ptr, y_ptr, x_scale, y_scale_ptr, row_ptr, col_ptr, rows, start, N, M, W,
            x_stride_n, x_stride_c, y_stride_m, y_stride_c,
            G, C, HAS_POSITION, SCALE_LATER, FIT, PRECISION, BLOCK_N, BLOCK_M, BLOCK_C,
        )  # fmt: skip
        # from the third up, each place takes the score or that of the place above; of equals the one before stays
        is_first, is_second = scores > first, scores > second
        lost = tl.maximum(lost, tl.minimum(scores, third))
        third_at = tl.where(scores > third, tl.where(is_second, second_at, start), third_at)
        third = tl.maximum(tl.minimum(scores, second), third)
        second_at = tl.where(is_second, tl.where(is_first, first_at, start), second_at)
        second = tl.maximum(tl.minimum(scores, first), second)
        first_at = tl.where(is_first, start, first_at)
        first = tl.maximum(scores, first)

    found = tl.zeros((BLOCK_N, SLOTS), tl.int32)
    top = tl.zeros((BLOCK_N,), tl.int32)
    for i in range(0, NEAREST):
        top = tl.max(first, 1)
        cols = first_at + lanes
        at = tl.min(tl.where(first == top[:, None], cols, LAST), 1)  # the lowest of equals
        is_taken = (first == top[:, None]) & (cols == at[:, None])
        found = tl.where(slots == i, at[:, None], found)
        first, first_at = tl.where(is_taken, second, first), tl.where(is_taken, second_at, first_at)
        second, second_at = tl.where(is_taken, third, second), tl.where(is_taken, third_at, second_at)
        third = tl.where(is_taken, LEAST, third)

    is_unsure = (lost >= top[:, None]) & row_mask[:, None]
    if tl.max(tl.max(is_unsure.to(tl.int32), 1), 0) > 0:
        # Once more, slower and for certain. A key is the score in its upper half and the candidate in its lower, so
        # that the order of keys is that of scores and, among equal scores, of candidates. No two keys are equal. The
        # best of a tile go in one after the other, each for the worst kept one. Slots beyond NEAREST are full from the
        # start.
        empty = LEAST_KEY + slots.to(tl.int64)  # distinct, and below every key
        best = tl.where(slots < NEAREST, empty, 2**63 - 1) + tl.zeros((BLOCK_N, SLOTS), tl.int64)
        for start in range(0, M, BLOCK_M):
            scores = score_tile(
                x, x_ptr, y_ptr, x_scale, y_scale_ptr, row_ptr, col_ptr, rows, start, N, M, W,
                x_stride_n, x_stride_c, y_stride_m, y_stride_c,
                G, C, HAS_POSITION, SCALE_LATER, FIT, PRECISION, BLOCK_N, BLOCK_M, BLOCK_C,
            )  # fmt: skip
            cols = start + lanes
            keys = tl.where(cols < M, (scores.to(tl.int64) << 32) | (0x7FFFFFFF - cols).to(tl.int64), LEAST_KEY)
            worst = tl.min(best, 1)  # (BLOCK_N,)
            rounds = tl.max(tl.sum((keys > worst[:, None]).to(tl.int32), 1), 0)
            for _ in range(0, tl.minimum(rounds, NEAREST)):
                largest = tl.max(keys, 1)
                keys = tl.where(keys == largest[:, None], LEAST_KEY, keys)
                best = tl.where(best == worst[:, None], tl.maximum(worst, largest)[:, None], best)
                worst = tl.min(best, 1)
        best = tl.where(slots < NEAREST, best, LEAST_KEY)
        for i in range(0, NEAREST):
            largest = tl.max(best, 1)
            best = tl.where(best == largest[:, None], LEAST_KEY, best)
            at = (0x7FFFFFFF - (largest & 0xFFFFFFFF)).to(tl.int32)
            found = tl.where(slots == i, at[:, None], found)

    out_tile = out_ptr + (tl.program_id(1).to(tl.int64) * N + rows)[:, None] * K + slots // DILATION
    tl.store(out_tile, found.to(tl.int64), mask=row_mask[:, None] & (slots < NEAREST) & (slots % DILATION == 0))


def _inverse_lengths(nodes: torch.Tensor, num_groups: int) -> torch.Tensor:
    """One over the length of each group of each node: (B, N, C) -> (B, N, G), float32."""
    B, N, C = nodes.shape
    out = nodes.new_empty(B, N, num_groups, dtype=torch.float32)
    block_c = min(64, triton.next_power_of_2(C // num_groups))
    inverse_length_kernel[(triton.cdiv(N * num_groups, 64), B)](
        nodes, out, N, *nodes.stride(), G=num_groups, C=C // num_groups, BLOCK_N=64, BLOCK_C=block_c
    )
    return out


def search_tile(queries: int, graphs: int) -> Tuple[int, int, int]:
    """Queries and candidates of a tile, and warps.

    Three scores and their places for each of 64 lanes of 16 queries are what the registers of 2 warps hold. Where that
    leaves multiprocessors of a large GPU idle (label nodes, a single image), lanes and warps are doubled. Of six tiles
    tried on an H200 these are the fastest, or within 15 % of it.
    """
    return (16, 64, 2) if triton.cdiv(queries, 16) * graphs >= 512 else (16, 128, 4)


def _float32_precision() -> str:
    """Tensor cores multiply float32 to its full precision in three passes; a single pass finds other neighbours."""
    on_nvidia = torch.cuda.is_available() and torch.version.hip is None
    return 'tf32x3' if on_nvidia and torch.cuda.get_device_capability() >= (8, 0) else 'ieee'


def launch_search(
    x: torch.Tensor,
    y: torch.Tensor,
    dilation: int,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]],
    out: torch.Tensor,
) -> None:
    """Write the neighbours of x (B, N, C) among y (B, M, C) to out (B, G, N, k), contiguous int64."""
    B, N, _ = x.shape
    G, k = out.shape[1], out.shape[3]
    C = x.shape[2] // G
    nearest = (k - 1) * dilation + 1
    # Products of half precision numbers are exact in float32, so that tensor cores can multiply the nodes as they are
    # and the lengths come later. float32 nodes are scaled first, like in F.normalize: their products could overflow.
    scale_later = x.dtype == y.dtype and x.dtype in (torch.float16, torch.bfloat16)
    block_n, block_m, num_warps = search_tile(N, B * G)
    row_table, col_table = (x, x) if position is None else (table.contiguous() for table in position)  # any pointer
    search_kernel[(triton.cdiv(N, block_n), B * G)](
        x,
        y,
        _inverse_lengths(x, G),
        _inverse_lengths(y, G),
        row_table,
        col_table,
        out,
        N,
        y.shape[1],
        1 if position is None else col_table.shape[0],
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
        PRECISION='ieee' if scale_later else _float32_precision(),
        BLOCK_N=block_n,
        BLOCK_M=block_m,
        BLOCK_C=32 if C <= 32 or not scale_later else 64,
        num_warps=num_warps,
        num_stages=2,  # few steps over the channels, for which more buffers than two are not worth their registers
    )
