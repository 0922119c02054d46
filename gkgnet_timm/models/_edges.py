"""The edges that blocks choose, kept while a model runs."""

import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..graph.layout import to_nodes
from ..graph.similarity import neighbor_similarity
from ..layers.block import Block

__all__ = ['Edges', 'blocks_of_layers', 'recorded_edges']


def blocks_of_layers(model: nn.Module) -> List[List[Block]]:
    """Return the blocks of each stage of a Pyramid ViG, or of each block of a ViG, that is or is in a model.

    Raises:
        ValueError: If the model has neither.
    """
    trunk = getattr(model, 'backbone', model)
    if not hasattr(trunk, 'layers_with_maps'):
        raise ValueError(f'The graph of patches needs a ViG trunk, and {type(trunk).__name__} is none.')
    return [[part for part in layer.modules() if isinstance(part, Block)] for layer in trunk.layers_with_maps()]


class Edges:
    """What nodes of one block chose in one pass.

    Attributes:
        neighbors: (B, G, N, k), flat indices (row * columns + column) of the candidates, nearest first.
        grid: Rows and columns of the candidates.
        pooling: Side of the window that candidates are pooled by, those of a patch in the first stages of a pyramid.
    """

    def __init__(self, block: Block, x: torch.Tensor, candidates: Optional[torch.Tensor], neighbors: torch.Tensor):
        self._block, self._x, self._candidates = block, x, candidates
        self.neighbors = neighbors
        height, width = (x if candidates is None else candidates).shape[2:]
        self.pooling = block.grapher.reduction
        self.grid = height // self.pooling, width // self.pooling

    @property
    def nodes(self) -> Tuple[int, int]:
        """Rows and columns of the nodes that choose."""
        return self._x.shape[2], self._x.shape[3]

    @torch.inference_mode()
    def similarity(self, index: Sequence[int]) -> torch.Tensor:
        """Cosine of some of the nodes and their neighbours, see `neighbor_similarity`: (B, G, len(index), k)."""
        x = self._block.grapher.fc1(self._x)
        y = x if self._candidates is None else self._candidates
        if self.pooling > 1:
            y = F.avg_pool2d(y, self.pooling)
        nodes = to_nodes(x)[:, index]  # (B, C, H, W) -> (B, H * W, C) -> (B, len(index), C)
        return neighbor_similarity(nodes, to_nodes(y), self.neighbors[:, :, index])


@contextmanager
def recorded_edges(blocks: Sequence[Block], keep: Callable[..., Any] = Edges) -> Iterator[Dict[Block, Any]]:
    """Keep the edges of blocks of every pass inside in this thread; the last pass replaces those before.

    Args:
        blocks: The blocks.
        keep: Returns what is kept of a block, its nodes, its candidates (None for these nodes) and the neighbours.
    """
    kept: Dict[Block, Any] = {}
    thread = threading.get_ident()

    def hook(block: Block, args: Tuple[Optional[torch.Tensor], ...], output: Tuple[torch.Tensor, torch.Tensor]) -> None:
        if threading.get_ident() == thread:  # others may use the same model
            kept[block] = keep(block, args[0], args[1] if len(args) > 1 else None, output[1])

    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
