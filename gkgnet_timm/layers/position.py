"""Positions of nodes: the relative term of the neighbour search and the absolute embedding."""

from typing import Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm.models import register_notrace_module

__all__ = ['RelativePosition', 'relative_position_tables', 'resample_pos_embed']


def relative_position_tables(
    height: int,
    width: int,
    dim: int,
    reduction: int,
    device: Optional[torch.device] = None,
    dtype: torch.dtype = torch.float32,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The relative position term of a stage as two small tables (ViG, section 3.3, as published).

    The published term between query i and candidate j is -P(i, j), where -P is 2 / C * E E^T resized bicubically from
    N to M along its flattened second axis, E the sine-cosine embedding of rows and columns. The resize is a fixed
    combination of four rows of E, and E splits into a column and a row half, so the term is exactly
    `row_table[row_i, j] + col_table[col_i, j]` and the N x M matrix is never needed. Two rows of a half have the
    product sum_k cos(wave_k * distance).

    Args:
        height: Rows of the query grid.
        width: Columns of the query grid.
        dim: Channels C of the stage, divisible by 4.
        reduction: Side of the pooling window of the candidates, 1 or even. M = height * width / reduction^2.
        device: Device of the tables.
        dtype: Type of the tables. They are computed in float64 in any case.

    Returns:
        row_table (height, M) and col_table (width, M), to be added to the similarity of query and candidate.
    """
    cpu = torch.device('cpu')  # some devices lack float64, and the meta device computes nothing
    wave = torch.arange(dim // 4, dtype=torch.float64, device=cpu) * (-4.0 / dim)
    distance = torch.arange(height + width, dtype=torch.float64, device=cpu)  # an export may not know the larger one
    angle = distance[:, None] * torch.pow(10000.0, wave)  # (H + W, C/4)
    # sin a sin b + cos a cos b = cos(a - b); ONNX Runtime for Python 3.10 has no cos of float64
    likeness = (1 - 2 * (angle / 2).sin().square()).sum(1, keepdim=True) * (2.0 / dim)  # (H + W, C/4) -> (H + W, 1)

    # Candidate j of the resized axis sits halfway between flat positions step * j + step / 2 - 1 and its successor.
    step = reduction * reduction
    if step == 1:
        taps, weights = [0], [1.0]
    else:
        first = step // 2 - 2
        taps = [first, first + 1, first + 2, first + 3]
        weights = [-0.09375, 0.59375, 0.59375, -0.09375]  # bicubic with a = -0.75 at 1/2
    candidate = torch.arange(height * width // step, device=cpu) * step  # (M,)
    rows = torch.arange(height, device=cpu).unsqueeze(-1)  # (H, 1)
    cols = torch.arange(width, device=cpu).unsqueeze(-1)  # (W, 1)
    row_table = torch.zeros(1, dtype=torch.float64, device=cpu)
    col_table = torch.zeros(1, dtype=torch.float64, device=cpu)
    for tap, weight in zip(taps, weights):
        key = candidate + tap
        row = torch.div(key, width, rounding_mode='floor')
        col = key - row * width
        row_table = row_table + weight * F.embedding((rows - row).abs(), likeness).squeeze(-1)  # (H, M, 1) -> (H, M)
        col_table = col_table + weight * F.embedding((cols - col).abs(), likeness).squeeze(-1)  # (W, M, 1) -> (W, M)
    return row_table.to(device=device, dtype=dtype), col_table.to(device=device, dtype=dtype)


def resample_pos_embed(pos_embed: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resample an absolute position embedding to another grid: (1, C, h, w) -> (1, C, height, width)."""
    if isinstance(height, int) and isinstance(width, int):  # see `RelativePosition.forward`
        if pos_embed.shape[2] == height and pos_embed.shape[3] == width:
            return pos_embed
    dtype = pos_embed.dtype
    full = torch.float64 if dtype == torch.float64 else torch.float32
    return F.interpolate(pos_embed.to(full), size=(height, width), mode='bicubic', antialias=True).to(dtype)


@register_notrace_module  # sizes decide what happens
class RelativePosition(nn.Module):
    """The relative position tables of one stage, shared by its blocks.

    Tables of the model's own size are buffers; those of the latest other sizes are cached. They are float64 in a
    float64 model and float32 in any other, and computed anew rather than cast, which would cost 1e-3 of precision.
    """

    MAX_CACHED = 8

    def __init__(
        self,
        dim: int,
        reduction: int,
        grid_size: Tuple[int, int],
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        super().__init__()
        self.dim = dim
        self.reduction = reduction
        table = torch.empty(0, device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        self.register_buffer('row_table', table, persistent=False)  # (H, M)
        self.register_buffer('col_table', table.clone(), persistent=False)  # (W, M)
        self.set_grid_size(grid_size)

    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Replace the tables by those of a different grid."""
        self.grid_size = (int(grid_size[0]), int(grid_size[1]))
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Compute the tables on the device of the buffers."""
        self._cached = {}
        dtype = torch.float64 if self.row_table.dtype == torch.float64 else torch.float32
        self.row_table, self.col_table = relative_position_tables(
            self.grid_size[0], self.grid_size[1], self.dim, self.reduction, self.row_table.device, dtype
        )

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.init_non_persistent_buffers()
        return self

    @torch.jit.unused
    def _other_tables(self, height: int, width: int) -> Tuple[torch.Tensor, torch.Tensor]:
        args = height, width, self.dim, self.reduction, self.row_table.device, self.row_table.dtype
        if torch.compiler.is_compiling():
            return relative_position_tables(*args)
        if (height, width) not in self._cached:
            if len(self._cached) >= self.MAX_CACHED:
                self._cached.pop(next(iter(self._cached)))
            self._cached[height, width] = relative_position_tables(*args)
        return self._cached[height, width]

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        height, width = x.shape[2], x.shape[3]
        # a size that an export leaves open is not compared: the program would be for all other sizes
        if isinstance(height, int) and isinstance(width, int):
            if height == self.grid_size[0] and width == self.grid_size[1]:
                return self.row_table, self.col_table
        if torch.jit.is_scripting():
            return relative_position_tables(
                height, width, self.dim, self.reduction, self.row_table.device, self.row_table.dtype
            )
        return self._other_tables(height, width)
