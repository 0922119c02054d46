"""Inference on large maps, in bands of rows that stay in the cache of a CPU from one layer to the next.

Larger results go through memory, which allocators take from the system and give back each time: that costs more than
the arithmetic. A map can go in bands where every layer treats each node alone; each type of layer states that itself.
"""

from typing import Callable, Dict, List, Optional, Sequence, Tuple, Type, TypeVar

import torch
import torch.nn as nn

from ..graph.layout import chunk_ranges

__all__ = ['in_bands', 'in_groups', 'node_wise']

BAND = 1 << 20  # numbers of a band
GROUP = 1 << 22  # numbers of the largest map; twice as much is fresh memory each time
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
    out: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Apply a function of nodes to maps whole or, where that is faster and the same, band by band.

    Args:
        layers: What the function runs. There are bands only if each layer in them treats every node alone.
        function: Makes a map (B, C, H, W) of maps and others.
        maps: Maps (B, C, H, W), or (B, C, H, W, ...), of which a band has some of the images or some of the rows.
        others: Tensors (B, ...) of which a band has some of the images.
        residual: Map (B, C, H, W) to add to the result.
        width: Largest number of channels that the function holds at a time.
        out: Map (B, C, H, W) whose memory bands may take for the result, band by band: that of the first map, say.

    Returns:
        Map (B, C, H, W), with as many channels as the first one.
    """
    x = maps[0]
    bands: List[Tuple[int, int, int, int]] = []
    if not _must_be_whole(x):
        B, _, H, W = x.shape
        # A band brings weights into another order, which is little work for as many nodes as channels.
        bands = chunk_ranges(B, H, W * width, max(BAND, width * width))
    if len(bands) < 2 or not all(_is_node_wise(part) for layer in layers for part in layer.modules()):
        whole = function(*maps, *others)
        return whole if residual is None else residual + whole
    for first, last, start, stop in bands:
        band = function(*[m[first:last, :, start:stop] for m in maps], *[other[first:last] for other in others])
        if out is None:
            out = torch.empty_like(x, dtype=band.dtype if residual is None else torch.result_type(residual, band))
        if residual is None:
            out[first:last, :, start:stop] = band
        else:
            torch.add(residual[first:last, :, start:stop], band, out=out[first:last, :, start:stop])
    return out


def in_groups(
    layers: Sequence[nn.Module], function: Callable[..., torch.Tensor], x: torch.Tensor, size: int
) -> torch.Tensor:
    """Apply a function of images (B, C, H, W) to all or, where that is faster and the same, to a few at a time.

    Args:
        layers: What the function runs: convolutions, and layers that treat every node alone.
        function: Makes maps of images, in the layout of nodes.
        x: The images.
        size: Numbers in the largest map of an image.
    """
    groups: List[Tuple[int, int, int, int]] = []
    if not _must_be_whole(x):
        groups = chunk_ranges(x.shape[0], 1, size, GROUP)
    if len(groups) < 2 or not all(
        _is_node_wise(part) or (type(part) is nn.Conv2d and not _has_hooks(part))
        for layer in layers
        for part in layer.modules()
    ):
        return function(x)
    out: Optional[torch.Tensor] = None
    for first, last, _, _ in groups:
        maps = function(x[first:last])
        if out is None:
            shape = (x.shape[0], *maps.shape[1:])
            out = torch.empty(shape, dtype=maps.dtype, memory_format=torch.channels_last)
        out[first:last] = maps
    return out
