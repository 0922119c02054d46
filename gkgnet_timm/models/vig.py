"""ViG: an isotropic vision graph network.

Paper: `Vision GNN: An Image is Worth Graph of Nodes` - https://arxiv.org/abs/2206.00272

A convolutional stem makes one node of every 16 x 16 pixels; equal blocks follow. A block is that of a Pyramid ViG, but
nodes choose among all others without a relative position term, and the deeper the block, the more neighbours they have.
"""

from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn as nn

from timm.layers import calculate_drop_path_rates
from timm.models import DefaultCfg, generate_default_cfgs, register_model

from ..layers.block import Block
from ..layers.checkpoint import checkpoint_block
from ..weights.source import VIG_FILES
from ._checks import check_channels, check_positive, check_size
from ._compat import feature_take_indices, jit_ignore
from ._convert import check_tensors, complete, convert_keys
from ._head import WithHead
from ._pretrained import build_model
from .pvig import vig_cfg

__all__ = ['Vig']

STRIDE = 16
MAX_REACH = 196  # upper bound of neighbours * dilation: the nodes at 224 px


class Vig(WithHead):
    """ViG: a graph network over the nodes of one map of stride 16 (arXiv 2206.00272).

    Arguments that are not listed here are those of `PyramidVig`.

    Args:
        depth: Number of blocks.
        embed_dim: Channels, a multiple of 8.
        k: Neighbours of every node in the first block, of which the last block has twice as many.
        num_groups: Channel groups with a graph each. 1 is ViG.
        dynamic_img_size: Take images of any size that is a multiple of 16, by resampling the position embedding.
        dynamic_img_pad: Pad images to a multiple of 16.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        depth: int = 12,
        embed_dim: int = 192,
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
        check_positive(depth=depth, embed_dim=embed_dim, k=k, num_groups=num_groups)
        check_size((depth,), (embed_dim,))
        check_channels((embed_dim,), 8, num_groups)
        super().__init__(
            img_size, in_chans, embed_dim, drop_path_rate, dynamic_img_size, dynamic_img_pad, pos_embed_init,
            stem_stride=STRIDE, stride=STRIDE, **dd
        )  # fmt: skip
        self.depth = depth
        self.grad_checkpointing = False
        ks = [k + k * index // max(1, depth - 1) for index in range(depth)]
        dilations = [max(1, min(index // 4 + 1, MAX_REACH // (2 * k))) for index in range(depth)]
        drop_path = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks: nn.ModuleList = nn.ModuleList(
            [
                Block(embed_dim, neighbors, dilation, num_groups, drop_path=rate, **dd)
                for neighbors, dilation, rate in zip(ks, dilations, drop_path)
            ]
        )
        self.feature_info: List[Dict[str, Any]] = [
            dict(num_chs=embed_dim, reduction=STRIDE, module=f'blocks.{i}.map') for i in range(depth)
        ]
        self.num_features = embed_dim
        self.build_head(num_classes, global_pool, hidden_size, drop_rate, **dd)

    @jit_ignore
    def layers_with_maps(self) -> nn.ModuleList:
        """Return the blocks, which `forward_intermediates` counts."""
        return self.blocks

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return patterns of parameter names by layer, for timm's layer decay."""
        return dict(stem=r'^stem', blocks=r'^blocks\.(\d+)')

    def forward_blocks(
        self, x: torch.Tensor, num_blocks: int, indices: List[int]
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Map (B, C, H / 16, W / 16) after the first blocks, and those after the blocks of these indices."""
        x = self.stem(x)
        maps: List[torch.Tensor] = []
        for i, block in enumerate(self.blocks):
            if i < num_blocks:
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x, _ = checkpoint_block(block, x)
                else:
                    x, _ = block(x)
                if i in indices:
                    maps.append(x)
        return x, maps

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Maps (B, C, H / 16, W / 16) along the way.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Take the maps of the last n blocks if int, all if None, the given ones if a sequence.
            norm: Has no effect, no norm follows the blocks.
            stop_early: Do not run blocks after the last one taken.
            output_fmt: 'NCHW', the only format.
            intermediates_only: Return the maps alone.

        Returns:
            The maps, or features as of `forward_features` and maps.
        """
        assert output_fmt == 'NCHW', 'Output format must be NCHW.'
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)
        x, maps = self.forward_blocks(x, max_index + 1 if stop_early else len(self.blocks), take_indices)
        return maps if intermediates_only else (x, maps)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H / 16, W / 16) that `forward_head` classifies, of images (B, in_chans, H, W)."""
        indices: List[int] = []
        x, _ = self.forward_blocks(x, len(self.blocks), indices)
        return x


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: Vig) -> Dict[str, torch.Tensor]:
    """State dict of this model from a published ViG checkpoint; one of our own passes unchanged.

    If the file has no classifier, the model keeps its freshly initialised one.

    Raises:
        ValueError: If a tensor is missing, left over or has another shape.
    """
    state_dict = convert_keys(state_dict, model.depth)
    state_dict = complete(state_dict, model, ('head.fc.',))
    return check_tensors(state_dict, model, ('head.fc',))


def _cfg(name: str, smallest: int, **kwargs: Any) -> Dict[str, Any]:
    """Cfg of a model, with the smallest size at which every block has enough candidates."""
    return vig_cfg(VIG_FILES[name], pool_size=(14, 14), min_input_size=(3, smallest, smallest), **kwargs)


default_cfgs: Dict[str, DefaultCfg] = generate_default_cfgs(
    {
        'vig_ti_224.in1k': _cfg('vig_ti_224', 128),
        'vig_s_224.in1k': _cfg('vig_s_224', 144),
        'vig_b_224.in1k': _cfg('vig_b_224', 144, crop_pct=0.95),
    }
)


def _create_vig(variant: str, pretrained: bool = False, **kwargs: Any) -> Vig:
    return build_model(Vig, variant, pretrained, 3, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


@register_model
def vig_ti_224(pretrained: bool = False, **kwargs: Any) -> Vig:
    """ViG-Ti."""
    return _create_vig('vig_ti_224', pretrained, **dict(depth=12, embed_dim=192) | kwargs)


@register_model
def vig_s_224(pretrained: bool = False, **kwargs: Any) -> Vig:
    """ViG-S."""
    return _create_vig('vig_s_224', pretrained, **dict(depth=16, embed_dim=320) | kwargs)


@register_model
def vig_b_224(pretrained: bool = False, **kwargs: Any) -> Vig:
    """ViG-B."""
    return _create_vig('vig_b_224', pretrained, **dict(depth=16, embed_dim=640) | kwargs)
