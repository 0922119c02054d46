"""Layers of the graph network: graph convolution, and blocks of it and a feed-forward network."""

from typing import Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm.layers import DropPath

from ..graph.functional import interleave_max_relative, knn_neighbors
from ..graph.layout import to_map, to_nodes
from .bands import in_bands, node_wise
from .conv import ConvBnAct, NodeGELU

__all__ = ['Block', 'FeedForward', 'GraphConv', 'Grapher']

node_wise(DropPath)


@node_wise
class GraphConv(nn.Module):
    """Max-relative graph convolution over the nearest candidates of every node, to twice the channels."""

    def __init__(
        self,
        dim: int,
        k: int,
        dilation: int,
        num_groups: int,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        super().__init__()
        self.k = k
        self.dilation = dilation
        self.num_groups = num_groups
        self.conv: ConvBnAct = ConvBnAct(
            2 * dim, 2 * dim, groups=4, bias=True, act_layer=NodeGELU, device=device, dtype=dtype
        )

    def search(
        self, x: torch.Tensor, y: torch.Tensor, position: Optional[Tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Neighbours (B, G, N, k) of nodes (B, N, C) among candidates (B, M, C)."""
        return knn_neighbors(x, y, self.k, self.dilation, self.num_groups, position)

    def forward(self, x: torch.Tensor, neighbors: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Nodes (B, C, H, W) with neighbours (B, G, H, W, k) among candidates (B, M, C) -> (B, 2C, H, W)."""
        H, W = x.shape[2], x.shape[3]
        x = interleave_max_relative(to_nodes(x), y, neighbors.flatten(2, 3))  # (B, C, H, W) -> (B, N, 2C)
        return self.conv(to_map(x, H, W))  # (B, N, 2C) -> (B, 2C, H, W)


@node_wise
class Grapher(nn.Module):
    """Graph convolution between two pointwise ones. Nodes look among themselves or among given candidates."""

    def __init__(
        self,
        dim: int,
        k: int,
        dilation: int = 1,
        num_groups: int = 1,
        reduction: int = 1,
        drop_path: float = 0.0,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.reduction = reduction
        self.fc1: ConvBnAct = ConvBnAct(dim, dim, bias=True, apply_act=False, **dd)
        self.graph_conv: GraphConv = GraphConv(dim, k, dilation, num_groups, **dd)
        self.fc2: ConvBnAct = ConvBnAct(2 * dim, dim, bias=True, apply_act=False, **dd)
        self.drop_path: nn.Module = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def search(
        self,
        x: torch.Tensor,
        candidates: Optional[torch.Tensor],
        position: Optional[Tuple[torch.Tensor, torch.Tensor]],
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nodes (B, C, H, W), their neighbours (B, G, H, W, k), and the candidates (B, M, C) that those are among."""
        H, W = x.shape[2], x.shape[3]
        if torch.jit.is_scripting():
            x = self.fc1(x)
        else:
            x = in_bands((self.fc1,), self.fc1, (x,), width=x.shape[1])
        y = x if candidates is None else candidates
        if self.reduction > 1:
            y = F.avg_pool2d(y, self.reduction)
        y = to_nodes(y)  # (B, C, H', W') -> (B, M, C)
        neighbors = self.graph_conv.search(to_nodes(x), y, position)  # (B, G, H * W, k)
        return x, neighbors.unflatten(2, (H, W)), y

    def forward(self, x: torch.Tensor, neighbors: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.graph_conv(x, neighbors, y)  # (B, C, H, W) -> (B, 2C, H, W)
        return self.drop_path(self.fc2(x))  # (B, 2C, H, W) -> (B, C, H, W)


@node_wise
class FeedForward(nn.Module):
    """Two pointwise convolutions."""

    def __init__(
        self,
        dim: int,
        drop_path: float = 0.0,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.fc1: ConvBnAct = ConvBnAct(dim, 4 * dim, bias=True, act_layer=NodeGELU, **dd)
        self.fc2: ConvBnAct = ConvBnAct(4 * dim, dim, bias=True, apply_act=False, **dd)
        self.drop_path: nn.Module = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)  # (B, C, H, W) -> (B, 4C, H, W)
        return self.drop_path(self.fc2(x))  # (B, 4C, H, W) -> (B, C, H, W)


class Block(nn.Module):
    """Grapher and feed-forward network, each with a residual.

    Args of forward:
        x: Nodes (B, C, H, W).
        candidates: Nodes (B, C, H', W') to choose neighbours from, those of x if None.
        position: Relative position tables.

    Returns:
        Nodes (B, C, H, W), and the neighbours that were chosen (B, G, H * W, k).
    """

    def __init__(
        self,
        dim: int,
        k: int,
        dilation: int = 1,
        num_groups: int = 1,
        reduction: int = 1,
        drop_path: float = 0.0,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grapher: Grapher = Grapher(dim, k, dilation, num_groups, reduction, drop_path, **dd)
        self.ffn: FeedForward = FeedForward(dim, drop_path, **dd)
        self.map = nn.Identity()  # for hooks of other libraries, which cannot take the output of a block

    def forward(
        self,
        x: torch.Tensor,
        candidates: Optional[torch.Tensor] = None,
        position: Optional[Tuple[torch.Tensor, torch.Tensor]] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        nodes, neighbors, y = self.grapher.search(x, candidates, position)
        if torch.jit.is_scripting():
            x = x + self.grapher(nodes, neighbors, y)
            x = x + self.ffn(x)
        else:
            width = 4 * x.shape[1]
            x = in_bands((self.grapher,), self.grapher, (nodes, neighbors), (y,), residual=x, width=width)
            del nodes, y  # their memory serves the feed-forward network
            x = in_bands((self.ffn,), self.ffn, (x,), residual=x, width=width, out=x)
        return self.map(x), neighbors.flatten(2, 3)
