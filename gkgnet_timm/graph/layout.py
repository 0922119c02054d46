"""Nodes and maps, one layout in memory, and how work on grids of nodes is split."""

from typing import List, Tuple

import torch

__all__ = ['chunk_ranges', 'to_map', 'to_nodes']


def to_nodes(x: torch.Tensor) -> torch.Tensor:
    """Nodes of a feature map: (B, C, H, W) -> (B, H * W, C).

    Like `to_map` it goes through (B, H, W, C), so the strides are those of channels_last whatever the sizes. After
    flatten(2).transpose(1, 2) a single image or column would have strides that fit two memory formats, and on the CPU
    the backward passes of BatchNorm and of grouped convolutions misread those: their gradients are wrong.
    """
    B, C, H, W = x.shape
    return x.permute(0, 2, 3, 1).reshape(B, H * W, C)  # (B, C, H, W) -> (B, H, W, C) -> (B, H * W, C)


def to_map(nodes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Feature map of nodes: (B, height * width, C) -> (B, C, height, width)."""
    B, _, C = nodes.shape
    return nodes.reshape(B, height, width, C).permute(0, 3, 1, 2)  # (B, H * W, C) -> (B, H, W, C) -> (B, C, H, W)


def chunk_ranges(batch_size: int, rows: int, row_size: int, budget: int) -> List[Tuple[int, int, int, int]]:
    """Split a batch of grids into chunks of whole grids, or each grid into chunks of whole rows.

    On a CPU a chunk has to stay in the cache from one operation to the next; elsewhere it only bounds memory.

    Args:
        batch_size: Number of grids.
        rows: Rows of a grid.
        row_size: Numbers in a row.
        budget: Numbers in a chunk, unless one row has more.

    Returns:
        First and last grid, first and last row of each chunk; the last ones are exclusive.
    """
    grids = min(batch_size, max(1, budget // (rows * row_size)))
    height = min(rows, max(1, budget // row_size))
    # the same number of chunks, of about equal size
    grids = -(-batch_size // -(-batch_size // grids))
    height = -(-rows // -(-rows // height))
    chunks: List[Tuple[int, int, int, int]] = []
    for first in range(0, batch_size, grids):
        for start in range(0, rows, height):
            chunks.append((first, min(first + grids, batch_size), start, min(start + height, rows)))
    return chunks
