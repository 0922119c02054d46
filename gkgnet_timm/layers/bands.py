"""Inference on large maps, in bands of rows that stay in the cache of a CPU from one layer to the next.

Larger results go through memory, which allocators take from the system and give back each time: that costs more than
the arithmetic. A map can go in bands where every layer treats each node alone; each type of layer states that itself.
"""

from typing import Callable, Dict, List, Optional, Sequence, Tuple, Type, TypeVar

import torch
import torch.nn as nn

from ..graph.layout import chunk_ranges

__all__ = ['in_bands', 'node_wise']

LayerT = TypeVar('LayerT', bound=nn.Module)
_NODE_WISE: Dict[Type[nn.Module], Callable[[nn.Module], bool]] = {}


def node_wise(layer: Type[LayerT], when: Callable[[LayerT], bool] = lambda layer: True) -> Type[LayerT]:
    """Mark a type of layer, not its subclasses, as one that in inference treats every node alone."""
    _NODE_WISE[layer] = when
    return layer


def _has_hooks(layer: nn.Module) -> bool:
    return len(layer._forward_hooks) + len(layer._forward_pre_hooks) > 0


def _is_node_wise(layer: nn.Module) -> bool:
    return type(layer) in _NODE_WISE and not layer.training and not _has_hooks(layer) and _NODE_WISE[type(layer)](layer)


def _must_be_whole(x: torch.Tensor) -> bool:
    return (
        type(x) is not torch.Tensor  # what traces or wraps a tensor
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.is_grad_enabled()
        or x.device.type != 'cpu'
        or x.numel() == 0
    )


def in_bands(
    layers: Sequence[nn.Module],
    function: Callable[..., torch.Tensor],
    maps: Sequence[torch.Tensor],
    others: Sequence[torch.Tensor] = (),
    *,
    residual: Optional[torch.Tensor] = None,
    width: int,
) -> torch.Tensor:
    """Apply a function of nodes to maps whole or, where that is faster and the same, band by band.

    Args:
        layers: What the function runs. There are bands only if each layer in them treats every node alone.
        function: Makes a map (B, C, H, W) of maps and others.
        maps: Maps (B, C, H, W), or (B, C, H, W, ...), of which a band has some of the images or some of the rows.
        others: Tensors (B, ...) of which a band has some of the images.
        residual: Map (B, C, H, W) to add to the result.
        width: Largest number of channels that the function holds at a time.

    Returns:
        Map (B, C, H, W), with as many channels as the first one.
    """
    x = maps[0]
    bands: List[Tuple[int, int, int, int]] = []
    if not _must_be_whole(x):
        B, _, H, W = x.shape
        # A band brings weights into another order, which is little work for as many nodes as channels.
        bands = chunk_ranges(B, H, W * width, max(1 << 20, width * width))
    if len(bands) < 2 or not all(_is_node_wise(part) for layer in layers for part in layer.modules()):
        whole = function(*maps, *others)
        return whole if residual is None else residual + whole
    out: Optional[torch.Tensor] = None
    for first, last, start, stop in bands:
        band = function(*[m[first:last, :, start:stop] for m in maps], *[other[first:last] for other in others])
        if out is None:
            out = torch.empty_like(x, dtype=band.dtype if residual is None else torch.result_type(residual, band))
        if residual is None:
            out[first:last, :, start:stop] = band
        else:
            torch.add(residual[first:last, :, start:stop], band, out=out[first:last, :, start:stop])
    return out
