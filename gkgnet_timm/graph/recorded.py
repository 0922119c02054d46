"""The graph operations as traces and exported programs keep them: few operators of PyTorch, on every device.

Nothing here depends on the number of images, so that a program recorded with some is right for any other number. One
product has all scores. ONNX alone gets a loop where they are many: 215 MB an image at 576 px, in and out of memory.
"""

import math
from typing import Callable, Optional, Tuple

import torch

from .eager import interleave, limit_neighbors
from .selection import select_by_topk

__all__ = ['interleave_max_relative', 'search_neighbors']

MOST_SCORES = 1 << 21  # of an image and group, without a loop


def _takes_loop(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether a graph of ONNX is being made whose scores of nodes (B, N, C) and (B, M, C) are many, or not known."""
    N, M = x.shape[1], y.shape[1]
    return torch.onnx.is_in_onnx_export() and not (isinstance(N, int) and N * M <= MOST_SCORES)


def _loop(
    function: Callable[..., torch.Tensor], same: Tuple[torch.Tensor, ...], sliced: Tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Results, stacked, of a function of tensors and of the slices of others along their first dimension.

    It is one `Scan` of ONNX, which hands the former from step to step: OpenVINO reads no loop that takes values from
    around it.
    """
    from torch._higher_order_ops.scan import scan  # a prototype of PyTorch, which nothing else needs

    def step(
        carry: Tuple[torch.Tensor, ...], slices: Tuple[torch.Tensor, ...]
    ) -> Tuple[Tuple[torch.Tensor, ...], torch.Tensor]:
        return tuple(x.clone() for x in carry), function(*carry, *slices)

    return scan(step, tuple(x.contiguous() for x in same), tuple(x.contiguous() for x in sliced))[1]


def _unit_groups(x: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Split channels into groups and scale each group of each node to unit length: (B, N, C) -> (B, G, N, C / G)."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32  # lower precision would tie in droves
    x = x.detach().unflatten(2, (num_groups, -1)).to(dtype)  # (B, N, C) -> (B, N, G, C/G)
    x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
    return x.transpose(1, 2)  # (B, N, G, C/G) -> (B, G, N, C/G)


def _search_rows(
    queries: torch.Tensor, keys: torch.Tensor, row_table: torch.Tensor, col_table: torch.Tensor, count: int
) -> torch.Tensor:
    """The largest scores by a loop over the rows of queries.

    Args:
        queries: Queries (B, G, H * W, D).
        keys: Candidates (B, G, D, M).
        row_table: Position of rows (H, M).
        col_table: Position of columns (W, M).
        count: Number of candidates to find.

    Returns:
        Indices (B, G, H * W, count), largest first.
    """

    def search(keys: torch.Tensor, col_table: torch.Tensor, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        position = (rows.unsqueeze(1) + col_table).flatten(0, 1)  # (h, 1, M) + (W, M) -> (h * W, M)
        scores = torch.bmm(2 * queries, keys) + position  # (B * G, h * W, D) @ (B * G, D, M) -> (B * G, h * W, M)
        return scores.topk(count, dim=-1)[1]

    B, G, N, _ = queries.shape
    H = row_table.shape[0]
    steps = H // math.gcd(H, 4) if isinstance(H, int) else H
    queries = queries.flatten(0, 1).unflatten(1, (steps, -1)).movedim(1, 0)  # -> (steps, B * G, h * W, D)
    rows = row_table.unflatten(0, (steps, -1))  # (H, M) -> (steps, h, M)
    found = _loop(search, (keys.flatten(0, 1), col_table), (queries, rows)).movedim(0, 1)  # (B * G, steps, h * W, k)
    return found.reshape(B, G, N, count)


def search_neighbors(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    dilation: int,
    num_groups: int,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """`functional.knn_neighbors` as one product and one selection.

    Where the number of candidates may change, there have to be k * dilation: with fewer, the program stops.
    """
    count = k * dilation
    if not isinstance(y.shape[1], torch.SymInt):
        M = int(y.shape[1])  # of a trace it is a tensor, and the limits would be kept as functions of it
        is_traced = torch.jit.is_tracing()
        if not is_traced or count > M:
            k, dilation = limit_neighbors(k, dilation, M)
            count = (k - 1) * dilation + 1
            if is_traced:
                y = y.reshape(y.shape[0], M, y.shape[2])  # a trace stops for any other number
    with torch.autocast(x.device.type, enabled=False):
        queries = _unit_groups(x, num_groups)
        keys = _unit_groups(y, num_groups).transpose(2, 3)  # (B, G, M, C/G) -> (B, G, C/G, M)
        if position is None:
            scores = queries @ keys  # (B, G, N, C/G) @ (B, G, C/G, M) -> (B, G, N, M)
        else:
            row_table, col_table = position[0].to(keys.dtype), position[1].to(keys.dtype)
            if _takes_loop(x, y):
                return _search_rows(queries, keys, row_table, col_table, count)[..., ::dilation]
            row_table, col_table = 0.5 * row_table, 0.5 * col_table  # half of 2 x.y + position ranks as that does
            scores = queries @ keys + (row_table.unsqueeze(1) + col_table).flatten(0, 1)  # (H, 1, M) + (W, M) -> (N, M)
        if torch.onnx.is_in_onnx_export():  # whose TopK takes the lower index of equal scores first
            return scores.topk(count, dim=-1)[1][..., ::dilation]  # (B, G, N, k)
        return select_by_topk(scores, count)[..., ::dilation]  # (B, G, N, k)


def interleave_max_relative(x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """`functional.interleave_max_relative` as one gather of all neighbours and one maximum."""
    B, M, C = y.shape
    N, G = x.shape[1], neighbors.shape[1]
    rows = y.reshape(-1, C // G)  # group g of candidate j of image b is row (b * M + j) * G + g
    first = torch.arange(B, device=y.device).view(-1, 1, 1, 1) * (M * G)
    group = torch.arange(G, device=y.device).view(-1, 1, 1)
    index = neighbors * G + (first + group)  # (B, G, N, k)

    def aggregate(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        # a look-up of embeddings is the fastest form of ONNX: (B, G, n, k) -> (B, G, n, k, C/G) -> (B, G, n, C/G)
        return torch.embedding(rows, index).amax(3)

    if isinstance(N, int) and _takes_loop(x, y):
        parts = index.unflatten(2, (math.gcd(N, 16), -1)).movedim(2, 0)  # (B, G, N, k) -> (parts, B, G, n, k)
        largest = _loop(aggregate, (rows,), (parts,))  # (parts, B, G, n, C/G)
        largest = largest.permute(1, 0, 3, 2, 4)  # (parts, B, G, n, C/G) -> (B, parts, n, G, C/G)
    else:
        largest = aggregate(rows, index).transpose(1, 2)  # (B, G, N, C/G) -> (B, N, G, C/G)
    return interleave(x, largest.reshape(B, N, C) - x)
