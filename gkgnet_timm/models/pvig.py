"""Pyramid ViG: a pyramid vision graph network, and the trunk that it shares with GKGNet.

Papers:
* `Vision GNN: An Image is Worth Graph of Nodes` - https://arxiv.org/abs/2206.00272
* `GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition`
  - https://arxiv.org/abs/2308.14378 (channel groups with a graph each, `num_groups`)

Every position of a feature map is a node. A block looks for the nearest nodes of each node among the (pooled) nodes of
the same map, aggregates them by max-relative graph convolution, and ends with a feed-forward network.
"""

from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn as nn

from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import calculate_drop_path_rates
from timm.models import DefaultCfg, generate_default_cfgs, register_model

from ..layers.block import Block
from ..layers.checkpoint import checkpoint_block
from ..layers.conv import ConvBnAct
from ..layers.position import RelativePosition
from ..weights.source import VIG_FILES
from ._checks import check_channels, check_positive, check_stages
from ._compat import feature_take_indices, jit_ignore
from ._convert import check_tensors, complete, convert_keys
from ._head import WithHead
from ._pretrained import build_model
from ._trunk import VigTrunk

__all__ = ['PyramidVig']

REDUCTIONS = (4, 2, 1, 1)  # side of the pooling window of the candidates, by stage
MAX_REACH = 49  # upper bound of neighbours * dilation: the nodes of the last stage at 224 px


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
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grad_checkpointing = False
        self.downsample: nn.Module
        if downsample:
            self.downsample = ConvBnAct(in_dim, dim, 3, stride=2, bias=True, apply_act=False, **dd)
        else:
            self.downsample = nn.Identity()
        self.relative_position: RelativePosition = RelativePosition(dim, reduction, grid_size, **dd)
        self.blocks: nn.ModuleList = nn.ModuleList(
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


class PyramidVigTrunk(VigTrunk):
    """Stem and stages, and the parts of the timm interface that depend on them alone.

    Subclasses add a head, and their own `join` if it takes more than the last map.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]],
        in_chans: int,
        depths: Tuple[int, ...],
        dims: Tuple[int, ...],
        k: int,
        num_groups: int,
        drop_path_rate: float,
        dynamic_img_size: bool,
        dynamic_img_pad: bool,
        pos_embed_init: str,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        check_stages(depths, dims)
        check_positive(k=k, num_groups=num_groups)
        check_channels(dims, 4, num_groups)
        super().__init__(
            img_size, in_chans, dims[0], drop_path_rate, dynamic_img_size, dynamic_img_pad, pos_embed_init, **dd
        )
        self.depths: Tuple[int, ...] = tuple(depths)
        self.drop_path_rates: List[float] = calculate_drop_path_rates(drop_path_rate, sum(depths))
        dilations = [max(1, min(index // 4 + 1, MAX_REACH // k)) for index in range(sum(depths))]
        self.stages: nn.ModuleList = nn.ModuleList()
        self.feature_info: List[Dict[str, Any]] = []
        first = 0  # index of the first block of the stage
        for i, (depth, dim, grid_size) in enumerate(zip(depths, dims, self._grid_sizes())):
            self.stages.append(
                Stage(
                    dims[max(i - 1, 0)],
                    dim,
                    grid_size,
                    reduction=REDUCTIONS[i],
                    dilations=dilations[first : first + depth],
                    drop_path=self.drop_path_rates[first : first + depth],
                    k=k,
                    num_groups=num_groups,
                    downsample=i > 0,
                    **dd,
                )
            )
            self.feature_info.append(dict(num_chs=dim, reduction=2 ** (i + 2), module=f'stages.{i}'))
            first += depth
        self.num_features: int = dims[-1]
        self.head_hidden_size: int = dims[-1]

    def _grid_sizes(self) -> List[Tuple[int, int]]:
        height, width = self.stem.img_size
        return [(height // 2**i, width // 2**i) for i in range(2, 6)]

    @jit_ignore
    def layers_with_maps(self) -> nn.ModuleList:
        return self.stages

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return patterns of parameter names by layer, for timm's layer decay."""
        blocks = [(r'^stages\.(\d+)\.downsample', (0,)), (r'^stages\.(\d+)\.blocks\.(\d+)', None)]
        return dict(stem=r'^stem', blocks=[(r'^stages\.(\d+)', None)] if coarse else blocks)

    @jit_ignore
    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        super().set_input_size(img_size)
        for stage, grid_size in zip(self.stages, self._grid_sizes()):
            stage.relative_position.set_grid_size(grid_size)

    def forward_stages(self, x: torch.Tensor, num_stages: int) -> List[torch.Tensor]:
        """Feature maps of the first stages: (B, in_chans, H, W) -> [(B, C_s, H / 2^(s+2), W / 2^(s+2)), ...]."""
        x = self.stem(x)
        maps: List[torch.Tensor] = []
        for i, stage in enumerate(self.stages):
            if i < num_stages:
                x = stage(x)
                maps.append(x)
        return maps

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Stage maps along the way.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Take the last n stages if int, all if None, the given ones if a sequence.
            norm: Has no effect, no norm follows the stages.
            stop_early: Do not run stages after the last one taken.
            output_fmt: 'NCHW', the only format.
            intermediates_only: Return the maps alone, and compute nothing else.

        Returns:
            The maps, or features as of `forward_features` and maps.
        """
        assert output_fmt == 'NCHW', 'Output format must be NCHW.'
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        maps = self.forward_stages(x, max_index + 1 if stop_early else len(self.stages))
        intermediates = [maps[i] for i in take_indices]
        if intermediates_only:
            return intermediates
        return self.join(maps), intermediates

    def join(self, maps: List[torch.Tensor]) -> torch.Tensor:
        """Features of the maps of all stages: the last one, (B, C, H / 32, W / 32)."""
        return maps[-1]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Features that `forward_head` classifies, of images (B, in_chans, H, W)."""
        return self.join(self.forward_stages(x, len(self.stages)))


class PyramidVig(WithHead, PyramidVigTrunk):
    """Pyramid ViG: a graph network over the nodes of four maps of falling size (arXiv 2206.00272).

    Args:
        img_size: Image side or (height, width) that position embedding and tables are made for.
        in_chans: Number of input channels.
        num_classes: Number of classes, 0 for no classifier.
        global_pool: 'avg', 'max', 'avgmax', or '' for none (without classifier).
        depths: Blocks of each stage.
        dims: Channels of each stage, multiples of 4.
        k: Neighbours of every node.
        num_groups: Channel groups with a graph each. 1 is ViG, 2 the trunk of GKGNet.
        hidden_size: Width of the hidden layer of the head.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        dynamic_img_size: Take images of any size that is a multiple of 32, by resampling the position embedding.
        dynamic_img_pad: Pad images to a multiple of 32.
        pos_embed_init: Position embedding if pretrained weights have a different image size: 'resample', or start from
            'zero' as the published training does.
        device: Device of parameters and buffers.
        dtype: Type of parameters and buffers.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        depths: Tuple[int, ...] = (2, 2, 6, 2),
        dims: Tuple[int, ...] = (48, 96, 240, 384),
        k: int = 9,
        num_groups: int = 1,
        hidden_size: int = 1024,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        pos_embed_init: str = 'resample',
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__(
            img_size, in_chans, depths, dims, k, num_groups, drop_path_rate, dynamic_img_size, dynamic_img_pad,
            pos_embed_init, **dd
        )  # fmt: skip
        self.build_head(num_classes, global_pool, hidden_size, drop_rate, **dd)


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: PyramidVig) -> Dict[str, torch.Tensor]:
    """State dict of this model from a published Pyramid ViG checkpoint; one of our own passes unchanged.

    If the file has no classifier, the model keeps its freshly initialised one.

    Raises:
        ValueError: If a tensor is missing, left over or has another shape.
    """
    state_dict = convert_keys(state_dict, model.depths)
    state_dict = complete(state_dict, model, ('head.fc.',))
    return check_tensors(state_dict, model, ('head.fc',))


def vig_cfg(url: str = '', **kwargs: Any) -> Dict[str, Any]:
    """Cfg of a model of the paper of ViG."""
    return {
        'url': url,
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'min_input_size': (3, 224, 224),  # the smallest at which every block has enough candidates
        'crop_pct': 0.9,
        'interpolation': 'bicubic',
        'mean': IMAGENET_INCEPTION_MEAN,
        'std': IMAGENET_INCEPTION_STD,
        'first_conv': 'stem.conv1.conv',
        'classifier': 'head.fc',
        'license': 'apache-2.0',
        'paper_ids': 'arXiv:2206.00272',
        'paper_name': 'Vision GNN: An Image is Worth Graph of Nodes',
        'origin_url': 'https://github.com/huawei-noah/Efficient-AI-Backbones',
        **kwargs,
    }


default_cfgs: Dict[str, DefaultCfg] = generate_default_cfgs(
    {
        'pvig_ti_224.in1k': vig_cfg(VIG_FILES['pvig_ti_224']),
        'pvig_s_224.in1k': vig_cfg(VIG_FILES['pvig_s_224']),
        'pvig_m_224.in1k': vig_cfg(VIG_FILES['pvig_m_224']),
        'pvig_b_224.in1k': vig_cfg(VIG_FILES['pvig_b_224'], crop_pct=0.95),
    }
)

VARIANTS = dict(
    ti=dict(depths=(2, 2, 6, 2), dims=(48, 96, 240, 384)),
    s=dict(depths=(2, 2, 6, 2), dims=(80, 160, 400, 640)),
    m=dict(depths=(2, 2, 16, 2), dims=(96, 192, 384, 768)),
    b=dict(depths=(2, 2, 18, 2), dims=(128, 256, 512, 1024)),
)


def _create_pvig(variant: str, pretrained: bool = False, **kwargs: Any) -> PyramidVig:
    return build_model(PyramidVig, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


@register_model
def pvig_ti_224(pretrained: bool = False, **kwargs: Any) -> PyramidVig:
    """Pyramid ViG-Ti."""
    return _create_pvig('pvig_ti_224', pretrained, **VARIANTS['ti'] | kwargs)


@register_model
def pvig_s_224(pretrained: bool = False, **kwargs: Any) -> PyramidVig:
    """Pyramid ViG-S."""
    return _create_pvig('pvig_s_224', pretrained, **VARIANTS['s'] | kwargs)


@register_model
def pvig_m_224(pretrained: bool = False, **kwargs: Any) -> PyramidVig:
    """Pyramid ViG-M."""
    return _create_pvig('pvig_m_224', pretrained, **VARIANTS['m'] | kwargs)


@register_model
def pvig_b_224(pretrained: bool = False, **kwargs: Any) -> PyramidVig:
    """Pyramid ViG-B."""
    return _create_pvig('pvig_b_224', pretrained, **VARIANTS['b'] | kwargs)
