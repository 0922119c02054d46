"""Layers of the graph network: stem, relative position tables, graph convolution, blocks, stage."""

from contextlib import contextmanager, nullcontext
from typing import Callable, Iterable, Iterator, List, Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.fusion import fuse_conv_bn_eval

from timm.layers import BatchNormAct2d, ConvNormAct, DropPath, FrozenBatchNormAct2d, to_2tuple
from timm.models import checkpoint, register_notrace_module

from ..graph.functional import interleave_max_relative, knn_neighbors
from ..graph.layout import chunk_ranges, to_map, to_nodes
from .position import relative_position_tables, resample_pos_embed

__all__ = [
    'Block',
    'ConvBnAct',
    'FeedForward',
    'GraphConv',
    'Grapher',
    'RelativePosition',
    'Stage',
    'Stem',
    'checkpoint_block',
]

STRIDE = 32  # of the last stage


def nearest_sizes(size: int, stride: int) -> str:
    low, high = size // stride * stride, (size // stride + 1) * stride
    return f'{low} or {high}' if low > 0 else f'{high}'


def _resolve_img_size(img_size: Union[int, Tuple[int, int]], pad: bool) -> Tuple[int, int]:
    """The (height, width) that the stages see for an image size."""
    size = tuple(to_2tuple(img_size))
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise ValueError(f'img_size must be a positive integer or (height, width), got {img_size!r}.')
    if not pad:
        for side in size:
            if side % STRIDE:
                raise ValueError(
                    f'img_size {img_size!r}: {side} is not a multiple of {STRIDE}, the nearest valid sizes are '
                    f'{nearest_sizes(side, STRIDE)}. Or pass dynamic_img_pad=True to pad images.'
                )
    return (size[0] + STRIDE - 1) // STRIDE * STRIDE, (size[1] + STRIDE - 1) // STRIDE * STRIDE


def prepare_images(
    x: torch.Tensor,
    in_chans: int,
    img_size: Tuple[int, int],
    dynamic_img_size: bool,
    dynamic_img_pad: bool,
    stride: int = STRIDE,
) -> torch.Tensor:
    """Check a batch of images, and pad it at the bottom and right if asked to.

    Raises:
        ValueError: For another rank, channel count or size than the model takes.
    """
    if x.ndim != 4:
        raise ValueError(f'Expected images (batch, channels, height, width), got a tensor of {x.ndim} dimensions.')
    if x.shape[1] != in_chans:
        raise ValueError(f'Expected images with {in_chans} channels, got {x.shape[1]}.')
    height, width = x.shape[2], x.shape[3]
    if height < 1 or width < 1:
        raise ValueError(f'Image size {height} x {width} is empty.')
    pad_h, pad_w = -height % stride, -width % stride
    if dynamic_img_pad:
        x = F.pad(x, (0, pad_w, 0, pad_h))
    elif dynamic_img_size and (pad_h > 0 or pad_w > 0):
        heights, widths = nearest_sizes(height, stride), nearest_sizes(width, stride)
        raise ValueError(
            f'Image size {height} x {width} is not a multiple of {stride}: the nearest valid heights are {heights}, '
            f'widths {widths}. Resize the images or create the model with dynamic_img_pad=True.'
        )
    if not dynamic_img_size and (x.shape[2] != img_size[0] or x.shape[3] != img_size[1]):
        raise ValueError(
            f'Image size {height} x {width} is not the {img_size[0]} x {img_size[1]} of this model. Call '
            'set_input_size() or create the model with dynamic_img_size=True.'
        )
    return x


class NodeGELU(nn.GELU):
    """GELU of maps in the layout of nodes: PyTorch has fast CPU code for it in the order of dimensions alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(x.permute(0, 2, 3, 1), approximate=self.approximate)  # (B, C, H, W) -> (B, H, W, C)
        return x.permute(0, 3, 1, 2)


class ConvBnAct(ConvNormAct):
    """timm's convolution, BatchNorm and activation, of which `timm.utils.reparameterize_model` makes two of three."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if not torch.jit.is_scripting():
            if _has_fresh_result(self.conv) and type(self.bn) is not nn.Identity:
                chunks = _map_chunks([self.bn], x, x.shape[1])
                if len(chunks) > 1:
                    return self._norm_in_chunks(chunks, x)
        return self.bn(x)

    @torch.jit.unused
    def _norm_in_chunks(self, chunks: List[Tuple[int, int, int, int]], x: torch.Tensor) -> torch.Tensor:
        for first, last, start, stop in chunks:
            x[first:last, :, start:stop] = self.bn(x[first:last, :, start:stop])
        return x

    def reparameterize(self) -> None:
        """Fold the running statistics into the convolution, for inference.

        Raises:
            ValueError: In training mode, whose statistics are those of the batch.
        """
        if self.training:
            raise ValueError('A model in training mode can not be reparameterized, call eval() first.')
        if isinstance(self.bn, _BatchNorm):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = self.bn.act


@register_notrace_module  # sizes decide what happens
class Stem(nn.Module):
    """Three convolutions to stride 4, plus the absolute position embedding."""

    def __init__(
        self,
        in_chans: int,
        dim: int,
        img_size: Union[int, Tuple[int, int]],
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        device=None,
        dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.in_chans = in_chans
        self.img_size = _resolve_img_size(img_size, dynamic_img_pad)
        self.dynamic_img_size = dynamic_img_size
        self.dynamic_img_pad = dynamic_img_pad
        conv_args = dict(kernel_size=3, bias=True, act_layer=NodeGELU, **dd)
        self.conv1 = ConvBnAct(in_chans, dim // 2, stride=2, **conv_args)
        self.conv2 = ConvBnAct(dim // 2, dim, stride=2, **conv_args)
        self.conv3 = ConvBnAct(dim, dim, apply_act=False, **conv_args)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, self.img_size[0] // 4, self.img_size[1] // 4, **dd))

    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Resample the position embedding to another image size."""
        self.img_size = _resolve_img_size(img_size, self.dynamic_img_pad)
        pos_embed = resample_pos_embed(self.pos_embed.detach(), self.img_size[0] // 4, self.img_size[1] // 4)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=self.pos_embed.requires_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = prepare_images(x, self.in_chans, self.img_size, self.dynamic_img_size, self.dynamic_img_pad)
        # From here on a node is a row in memory: all that follows keeps this layout, and would copy any other. Images
        # of one channel have both layouts, which a convolution takes for the other one.
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))  # (B, in_chans, H, W) -> (B, C/2, H/2, W/2)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.conv2(x)  # -> (B, C, H/4, W/4)
        x = self.conv3(x)
        return x + resample_pos_embed(self.pos_embed, x.shape[2], x.shape[3])


@register_notrace_module  # sizes decide what happens
class RelativePosition(nn.Module):
    """The relative position tables of one stage, shared by its blocks.

    Tables of the model's own size are buffers; those of the last few other sizes are cached. They are float64 in a
    float64 model and float32 in any other, and made anew rather than cast, which would lose 1e-3 on the way.
    """

    MAX_CACHED = 8

    def __init__(self, dim: int, reduction: int, grid_size: Tuple[int, int], device=None, dtype=None):
        super().__init__()
        self.dim = dim
        self.reduction = reduction
        table = torch.empty(0, device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        self.register_buffer('row_table', table, persistent=False)  # (H, M)
        self.register_buffer('col_table', table.clone(), persistent=False)  # (W, M)
        self.set_grid_size(grid_size)

    def set_grid_size(self, grid_size: Tuple[int, int]) -> None:
        """Make the tables of another grid the model's own."""
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
        if height == self.grid_size[0] and width == self.grid_size[1]:
            return self.row_table, self.col_table
        if torch.jit.is_scripting():
            return relative_position_tables(
                height, width, self.dim, self.reduction, self.row_table.device, self.row_table.dtype
            )
        return self._other_tables(height, width)


def _has_fresh_result(conv: nn.Module) -> bool:
    """Whether nobody else can have the result of a convolution: no hook, no forward that was put around its own."""
    return type(conv) is nn.Conv2d and not conv._forward_hooks and 'forward' not in vars(conv)


def _goes_by_node(module: nn.Module) -> bool:
    """Whether a part of a module is known to treat every node alone, and no hook sees more."""
    if module.training or len(module._forward_hooks) + len(module._forward_pre_hooks) > 0:
        return False
    if type(module) is nn.Conv2d:
        return module.kernel_size == (1, 1)
    if type(module) in (BatchNormAct2d, FrozenBatchNormAct2d):
        return module.running_mean is not None
    return type(module) in (ConvBnAct, GraphConv, NodeGELU, DropPath, nn.Identity)


def _map_chunks(
    parts: Iterable[nn.Module], x: torch.Tensor, channels: int, min_nodes: int = 1
) -> List[Tuple[int, int, int, int]]:
    """Chunks of a map for parts of a module, one after the other in inference on a CPU, to keep them in cache.

    Larger results go through memory, which allocators take from the system and give back each time: that costs more
    than the arithmetic. There is one chunk where gradients, a traced graph or anything of the whole map is wanted.

    Args:
        parts: The modules that a chunk goes through.
        x: Map (B, C, H, W).
        channels: Numbers per node that are held at a time.
        min_nodes: Nodes of a chunk to aim for where the cache would take fewer. Each chunk brings weights into another
            order, which is little work for as many nodes as channels.

    Returns:
        Ranges of `gkgnet_timm.graph.chunk_ranges`.
    """
    B, _, H, W = x.shape
    whole = [(0, B, 0, H)]
    is_traced = type(x) is not torch.Tensor or torch.jit.is_tracing() or torch.compiler.is_compiling()
    if is_traced or x.device.type != 'cpu' or torch.is_grad_enabled() or x.numel() == 0:
        return whole
    if _has_any_global_hook():
        return whole
    chunks = chunk_ranges(B, H, W * channels, max(1 << 20, min_nodes * channels))
    if len(chunks) > 1 and not all(_goes_by_node(module) for part in parts for module in part.modules()):
        return whole
    return chunks


def _add_in_chunks(
    chunks: List[Tuple[int, int, int, int]],
    x: torch.Tensor,
    branch: Callable[[int, int, int, int], torch.Tensor],
) -> torch.Tensor:
    """A map and the branch that a function gives for the ranges of `chunk_ranges`."""
    out = None
    for first, last, start, stop in chunks:
        part = branch(first, last, start, stop)  # (last - first, C, stop - start, W)
        if out is None:
            out = torch.empty_like(x, dtype=torch.result_type(x, part))
        torch.add(x[first:last, :, start:stop], part, out=out[first:last, :, start:stop])
    return out


class GraphConv(nn.Module):
    """Max-relative graph convolution over the nearest candidates of every node, to twice the channels."""

    def __init__(self, dim: int, k: int, dilation: int, num_groups: int, device=None, dtype=None):
        super().__init__()
        self.k = k
        self.dilation = dilation
        self.num_groups = num_groups
        self.conv = ConvBnAct(2 * dim, 2 * dim, groups=4, bias=True, act_layer=NodeGELU, device=device, dtype=dtype)

    def search(
        self, x: torch.Tensor, y: torch.Tensor, position: Optional[Tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Neighbours (B, G, N, k) of nodes (B, N, C) among candidates (B, M, C)."""
        return knn_neighbors(x, y, self.k, self.dilation, self.num_groups, position)

    def forward(self, x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
        """Map (B, 2C, H, W) of the nodes of a map (B, C, H, W) and their neighbours (B, G, H * W, k) among y."""
        H, W = x.shape[2], x.shape[3]
        x = interleave_max_relative(to_nodes(x), y, neighbors)  # (B, N, 2C)
        return self.conv(to_map(x, H, W))  # (B, N, 2C) -> (B, 2C, H, W)


class Grapher(nn.Module):
    """Residual branch around a graph convolution. Nodes look among themselves or among given candidates."""

    def __init__(
        self,
        dim: int,
        k: int,
        dilation: int = 1,
        num_groups: int = 1,
        reduction: int = 1,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.reduction = reduction
        self.fc1 = ConvBnAct(dim, dim, bias=True, apply_act=False, **dd)
        self.graph_conv = GraphConv(dim, k, dilation, num_groups, **dd)
        self.fc2 = ConvBnAct(2 * dim, dim, bias=True, apply_act=False, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(
        self,
        x: torch.Tensor,
        candidates: Optional[torch.Tensor] = None,
        position: Optional[Tuple[torch.Tensor, torch.Tensor]] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        nodes = self.fc1(x)
        y = nodes if candidates is None else candidates
        if self.reduction > 1:
            y = F.avg_pool2d(y, self.reduction)
        y = to_nodes(y)  # (B, C, H', W') -> (B, M, C)
        neighbors = self.graph_conv.search(to_nodes(nodes), y, position)  # (B, G, N, k)
        if not torch.jit.is_scripting():
            channels = 4 * x.shape[1]
            chunks = _map_chunks(self.children(), x, channels, min_nodes=channels)
            if len(chunks) > 1:
                return self._forward_in_chunks(chunks, x, nodes, y, neighbors), neighbors
        return x + self.branch(nodes, y, neighbors), neighbors

    def branch(self, nodes: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
        """All after the search, without the residual."""
        return self.drop_path(self.fc2(self.graph_conv(nodes, y, neighbors)))

    @torch.jit.unused
    def _forward_in_chunks(
        self,
        chunks: List[Tuple[int, int, int, int]],
        x: torch.Tensor,
        nodes: torch.Tensor,
        y: torch.Tensor,
        neighbors: torch.Tensor,
    ) -> torch.Tensor:
        neighbors = neighbors.unflatten(2, x.shape[2:])  # (B, G, H * W, k) -> (B, G, H, W, k)

        def branch(first: int, last: int, start: int, stop: int) -> torch.Tensor:
            chunk = neighbors[first:last, :, start:stop].flatten(2, 3)
            return self.branch(nodes[first:last, :, start:stop], y[first:last], chunk)

        return _add_in_chunks(chunks, x, branch)


class FeedForward(nn.Module):
    """Two pointwise convolutions with a residual."""

    def __init__(self, dim: int, drop_path: float = 0.0, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.fc1 = ConvBnAct(dim, 4 * dim, bias=True, act_layer=NodeGELU, **dd)
        self.fc2 = ConvBnAct(4 * dim, dim, bias=True, apply_act=False, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            channels = 4 * x.shape[1]
            chunks = _map_chunks(self.children(), x, channels, min_nodes=channels)
            if len(chunks) > 1:
                return self._forward_in_chunks(chunks, x)
        return x + self.branch(x)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """All but the residual."""
        return self.drop_path(self.fc2(self.fc1(x)))

    @torch.jit.unused
    def _forward_in_chunks(self, chunks: List[Tuple[int, int, int, int]], x: torch.Tensor) -> torch.Tensor:
        def branch(first: int, last: int, start: int, stop: int) -> torch.Tensor:
            return self.branch(x[first:last, :, start:stop])

        return _add_in_chunks(chunks, x, branch)


class Block(nn.Module):
    """Grapher and feed-forward network.

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
        device=None,
        dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grapher = Grapher(dim, k, dilation, num_groups, reduction, drop_path, **dd)
        self.ffn = FeedForward(dim, drop_path, **dd)

    def forward(
        self,
        x: torch.Tensor,
        candidates: Optional[torch.Tensor] = None,
        position: Optional[Tuple[torch.Tensor, torch.Tensor]] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        x, neighbors = self.grapher(x, candidates, position)
        return self.ffn(x), neighbors


@contextmanager
def _kept_running_stats(module: nn.Module) -> Iterator[None]:
    # BatchNorm updates copies: without any statistics it would save other tensors for backward than the first time
    kept = []
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            kept += [(norm, name, buffer) for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def checkpoint_block(
    block: nn.Module,
    x: torch.Tensor,
    candidates: Optional[torch.Tensor] = None,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]] = None,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Run a block whose activations are computed again in the backward pass.

    The second run leaves the running statistics of its BatchNorms alone, they would be updated twice.
    """
    if torch.compiler.is_compiling():  # recomputes only what is without side effects
        return checkpoint(block, x, candidates, position)
    return checkpoint(block, x, candidates, position, context_fn=lambda: (nullcontext(), _kept_running_stats(block)))


class Stage(nn.Module):
    """Downsampling, then blocks that share one relative position term."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        grid_size: Tuple[int, int],
        reduction: int,
        dilations: List[int],
        drop_path: List[float],
        k: int,
        num_groups: int,
        downsample: bool = True,
        device=None,
        dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grad_checkpointing = False
        if downsample:
            self.downsample = ConvBnAct(in_dim, dim, 3, stride=2, bias=True, apply_act=False, **dd)
        else:
            self.downsample = nn.Identity()
        self.relative_position = RelativePosition(dim, reduction, grid_size, **dd)
        self.blocks = nn.ModuleList(
            [
                Block(dim, k, dilation, num_groups, reduction, drop_path=rate, **dd)
                for dilation, rate in zip(dilations, drop_path)
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        position = self.relative_position(x)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x, _ = checkpoint_block(block, x, None, position)
            else:
                x, _ = block(x, None, position)
        return x
