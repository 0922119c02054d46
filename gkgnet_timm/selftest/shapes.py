"""The shapes of nodes on which the self-test runs the kernels, and nodes of them."""

from typing import NamedTuple, Optional, Tuple

import torch

__all__ = ['SHAPES', 'Nodes', 'Shape', 'make_nodes']


class Shape(NamedTuple):
    """Queries on a grid, their candidates, and the search among these."""

    batch: int
    grid: Tuple[int, int]
    candidates: int
    channels: int
    groups: int
    k: int
    dilation: int = 1
    position: bool = False
    form: str = 'plain'  # of the tensors in memory; or equal: scores are few and exact in every type

    def __str__(self) -> str:
        grid = 'x'.join(map(str, self.grid))
        extra = [f'dilation {self.dilation}'] * (self.dilation > 1) + ['position'] * self.position
        extra += [self.form] * (self.form != 'plain')
        words = (f'{self.batch}x{grid} among {self.candidates}', f'{self.channels} channels', f'{self.groups} groups')
        return ', '.join([*words, f'k {self.k}', *extra])


# A GPU kernel is compiled for channels, groups, k and dilation, so that these vary less than the numbers of nodes.
SHAPES = (
    Shape(1, (1, 1), 1, 48, 2, 9),
    Shape(1, (1, 1), 30, 48, 2, 9),
    Shape(2, (5, 7), 49, 48, 2, 9),
    Shape(1, (7, 3), 9, 48, 2, 9),  # as many candidates as neighbours
    Shape(3, (4, 4), 5, 48, 2, 9),  # fewer
    Shape(16, (3, 5), 64, 48, 2, 9),
    Shape(1, (16, 16), 256, 48, 2, 9),
    Shape(1, (11, 13), 131, 48, 2, 9),
    Shape(1, (8, 8), 64, 80, 2, 9, 2, position=True),
    Shape(2, (7, 7), 49, 80, 2, 9, 2, position=True),
    Shape(1, (14, 14), 49, 80, 2, 9, 2, position=True),
    Shape(8, (4, 6), 24, 80, 2, 9, 2, position=True),
    Shape(1, (1, 33), 70, 80, 2, 9, 2, position=True),
    Shape(1, (33, 1), 70, 80, 2, 9, 2, position=True),
    Shape(2, (6, 6), 17, 80, 2, 9, 2, position=True),  # the dilation is shortened
    Shape(1, (14, 14), 196, 160, 2, 9, 3, position=True),
    Shape(2, (7, 5), 36, 160, 2, 9, 3, position=True),
    Shape(1, (12, 12), 36, 160, 2, 9, 3),
    Shape(1, (5, 5), 26, 160, 2, 9, 3),  # shortened to 2
    Shape(1, (7, 7), 49, 640, 1, 9),
    Shape(2, (3, 3), 12, 640, 1, 9),
    Shape(4, (2, 2), 9, 640, 1, 9),
    Shape(2, (6, 4), 30, 400, 4, 5),
    Shape(1, (9, 9), 81, 400, 4, 5),
    Shape(2, (10, 10), 100, 20, 1, 1),
    Shape(1, (1, 1), 7, 20, 1, 1),
    Shape(2, (5, 5), 25, 24, 8, 3),
    Shape(1, (4, 4), 77, 24, 8, 3),
    Shape(1, (14, 14), 196, 192, 1, 18, 4, position=True),  # a ViG
    Shape(2, (7, 7), 98, 192, 1, 18, 4),
    Shape(2, (6, 6), 40, 48, 2, 9, form='channels first'),
    Shape(2, (6, 6), 36, 48, 2, 9, position=True, form='channels first'),
    Shape(2, (6, 6), 40, 48, 2, 9, form='with gaps'),
    Shape(2, (6, 6), 36, 48, 2, 9, form='in both roles'),
    Shape(4, (2, 3), 50, 48, 2, 9, form='the same for all images'),
    Shape(2, (6, 6), 40, 32, 2, 9, form='equal'),
    Shape(1, (9, 9), 300, 8, 2, 9, 2, form='equal'),
    Shape(2, (6, 6), 36, 32, 2, 9, position=True, form='equal'),
    Shape(1, (14, 14), 196, 64, 1, 18, 4, form='equal'),
    Shape(8, (3, 3), 128, 4, 1, 1, form='equal'),
)


class Nodes(NamedTuple):
    """Queries (B, N, C), candidates (B, M, C), and the tables (H, M) and (W, M) of their position, if any."""

    x: torch.Tensor
    y: torch.Tensor
    position: Optional[Tuple[torch.Tensor, torch.Tensor]]


def _signs(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Nodes of -1 and 1: groups of 4, 16 or 64 channels have lengths and products without rounding."""
    return torch.randint(2, shape, generator=generator) * 2.0 - 1


def make_nodes(shape: Shape, dtype: torch.dtype, device: torch.device) -> Nodes:
    """Make the same nodes of a shape on every machine."""
    generator = torch.Generator().manual_seed(0)
    B, (H, W), M, C = shape.batch, shape.grid, shape.candidates, shape.channels

    def make(count: int) -> torch.Tensor:
        def random(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator).to(device, dtype)

        if shape.form == 'channels first':
            return random(B, C, count).transpose(1, 2)  # (B, C, N) -> (B, N, C)
        if shape.form == 'with gaps':
            return random(B, 2 * count, 2 * C)[:, ::2, ::2]
        if shape.form == 'equal':
            return _signs(generator, B, count, C).to(device, dtype)
        return random(B, count, C)

    x = make(H * W)
    if shape.form == 'the same for all images':
        x = x[:1].expand(B, -1, -1)
    y = x if shape.form == 'in both roles' else make(M)
    if not shape.position:
        return Nodes(x, y, None)
    tables = [torch.randn(rows, M, generator=generator) / 2 for rows in (H, W)]
    if shape.form == 'equal':
        tables = [table.round() for table in tables]
    wide = torch.promote_types(dtype, torch.float32)
    row_table, col_table = (table.to(device, wide) for table in tables)
    return Nodes(x, y, (row_table, col_table))
