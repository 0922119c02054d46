"""The model by the dense graph operations, as the yardstick of the benchmark and the oracle of tests."""

from typing import Optional

import torch
import torch.nn as nn

from ..graph.dense import dense_max_relative, dense_neighbors, relative_position_matrix
from ..graph.eager import interleave
from ..graph.layout import to_map, to_nodes
from ..layers.block import GraphConv
from ..layers.position import RelativePosition
from ..models.pvig import Stage

__all__ = ['use_dense_graph']


class DenseRelativePosition(nn.Module):
    """The relative position matrix of a stage for one grid, kept like a weight."""

    def __init__(self, tables: RelativePosition):
        super().__init__()
        matrix = relative_position_matrix(*tables.grid_size, tables.dim, tables.reduction)
        self.register_buffer('matrix', matrix.to(tables.row_table), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix


class DenseGraphConv(GraphConv):
    """Graph convolution by the dense operations. Bands of rows are for the layers of the model alone."""

    def search(self, x: torch.Tensor, y: torch.Tensor, position: Optional[torch.Tensor]) -> torch.Tensor:
        return dense_neighbors(x, y, self.k, self.dilation, self.num_groups, position)

    def forward(self, x: torch.Tensor, neighbors: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        H, W = x.shape[2:]
        x = to_nodes(x)
        x = interleave(x, dense_max_relative(x, y, neighbors.flatten(2, 3)))
        return self.conv(to_map(x, H, W))


def use_dense_graph(model: nn.Module) -> nn.Module:
    """Turn a model into its own oracle, in place. A trunk of ours then takes images of its own size only."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.relative_position = DenseRelativePosition(module.relative_position)
        if isinstance(module, GraphConv):
            module.__class__ = DenseGraphConv
    return model
