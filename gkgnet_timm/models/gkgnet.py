"""GKGNet: multi-label recognition with one graph of image patches and label nodes.

Paper: `GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition`
    - https://arxiv.org/abs/2308.14378

The trunk is a Pyramid ViG whose neighbours are searched per channel group. There is one label node per class. After
every stage, label nodes look for their nearest patches in the map of that stage and aggregate them. Finally a class is
scored from its own node and from the pooled patches.
"""

import itertools
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn as nn

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import global_pool_nlc
from timm.models import DefaultCfg, generate_default_cfgs, register_model

from ..class_names import COCO_CLASSES, UNVERIFIED
from ..graph.layout import to_nodes
from ..weights.source import GKGNET_FILE, VIG_FILES
from ._checks import check_classifier, check_options
from ._compat import jit_ignore
from ._convert import check_tensors, complete, convert_keys
from ._label_graph import LABEL_CFG, LABEL_CLASSIFIER, LabelBranch, init_label_branch
from ._pretrained import build_model, on_hub
from .pvig import VARIANTS, PyramidVigTrunk

__all__ = ['GkgNet']


class GkgNet(LabelBranch, PyramidVigTrunk):
    """GKGNet: a Pyramid ViG whose maps label nodes search for their nearest patches (arXiv 2308.14378).

    Arguments that are not listed here are those of `PyramidVig`.

    Args:
        num_classes: Number of classes L, each a label node. 0 for the trunk alone, which gives pooled patches.
        global_pool: Pooling of the patches, 'avg', 'max', 'avgmax', or '' for none (without classifier).
        k: Neighbours of every patch.
        label_k: Neighbours of every label node.
        num_groups: Channel groups with a graph each, for patches and labels. 1 is the graph of ViG.
        label_depth: Label blocks after the last stage; the other stages have one each.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 80,
        global_pool: str = 'avg',
        depths: Tuple[int, ...] = (2, 2, 6, 2),
        dims: Tuple[int, ...] = (80, 160, 400, 640),
        k: int = 9,
        label_k: int = 9,
        num_groups: int = 2,
        label_depth: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        pos_embed_init: str = 'resample',
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        check_classifier(num_classes, global_pool)
        check_options(drop_rate=drop_rate)
        dd = {'device': device, 'dtype': dtype}
        super().__init__(
            img_size, in_chans, depths, dims, k, num_groups, drop_path_rate, dynamic_img_size, dynamic_img_pad,
            pos_embed_init, **dd
        )  # fmt: skip
        self.global_pool = global_pool
        self.head_drop: nn.Dropout = nn.Dropout(drop_rate)
        firsts = itertools.accumulate((0, *depths[:-1]))  # the first block of each stage in the trunk
        self._build_label_branch(
            num_classes,
            dims,
            dims,
            self.num_features,
            label_k,
            num_groups,
            label_depth,
            [self.drop_path_rates[first] for first in firsts],
            **dd,
        )
        self.init_weights()

    @jit_ignore
    def _init_weights(self, module: nn.Module, name: str = '') -> None:
        super()._init_weights(module, name)
        if name in ('head_label', 'head_patch'):
            init_label_branch(module, name)

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return patterns of parameter names by layer, for timm's layer decay."""
        matcher = super().group_matcher(coarse)
        # in groups of blocks, after those of its stage
        matcher['blocks'].append((r'^label_stages\.(\d+)', None if coarse else (max(self.depths),)))
        return matcher

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the label embedding and score layers by fresh ones for a different class count.

        The label blocks are kept; 0 classes removes the whole label branch.
        """
        check_classifier(num_classes, self.global_pool if global_pool is None else global_pool)
        if global_pool is not None:
            self.global_pool: str = global_pool
        self._reset_labels(num_classes)

    def _forward_maps(self, x: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        maps = self.forward_stages(x, len(self.stages))
        return maps[-1], maps

    def _join(self, features: torch.Tensor, label_nodes: torch.Tensor) -> torch.Tensor:
        return torch.cat([label_nodes, to_nodes(features)], dim=1)  # (B, C, H, W) -> (B, H * W, C)

    def join(self, maps: List[torch.Tensor]) -> torch.Tensor:
        """All final graph nodes, label nodes first: (B, L + H / 32 * W / 32, C)."""
        if self.label_embed is None:
            return to_nodes(maps[-1])  # (B, C, H, W) -> (B, H * W, C)
        label_nodes, _ = self.forward_labels(maps)
        return self._join(maps[-1], label_nodes[-1])

    def remove_head(self) -> None:
        """Remove the label branch."""
        self.reset_classifier(0, '')
        self._keep_maps(len(self.stages), self.num_features)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, L) of final graph nodes, or the pooled patches (B, C)."""
        pooled = global_pool_nlc(x, pool_type=self.global_pool, num_prefix_tokens=self.num_prefix_tokens)
        pooled = self.head_drop(pooled)
        if pre_logits or self.head_label is None or self.head_patch is None:
            return pooled
        return self.score(self.head_drop(x[:, : self.num_prefix_tokens]), pooled)


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: GkgNet) -> Dict[str, torch.Tensor]:
    """State dict of this model from a published GKGNet or Pyramid ViG checkpoint; one of our own passes unchanged.

    The label branch is loaded whole or not at all: if the file has none, as that of a Pyramid ViG, the model keeps its
    freshly initialised one.

    Raises:
        ValueError: If a tensor is missing, left over or has another shape.
    """
    state_dict = convert_keys(state_dict, model.depths)
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith('head.')}  # of a Pyramid ViG
    state_dict = complete(state_dict, model, ('label_', 'head_'))
    return check_tensors(state_dict, model, LABEL_CLASSIFIER)


def _cfg(url: str = '', img_size: int = 224, **kwargs: Any) -> Dict[str, Any]:
    return {
        'url': url,
        'num_classes': 80,
        'input_size': (3, img_size, img_size),
        'pool_size': (img_size // 32, img_size // 32),
        'min_input_size': (3, 224, 224),  # the smallest at which every block has enough candidates
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stem.conv1.conv',
        'license': 'apache-2.0',
        **LABEL_CFG,
        **kwargs,
    }


def _in1k(width: str, img_size: int = 224) -> Dict[str, Any]:
    """Cfg of a model whose trunk is pretrained as Pyramid ViG and whose label branch is to be trained."""
    url = VIG_FILES[f'pvig_{width}_224']
    return _cfg(url, img_size, description='Trunk of Pyramid ViG, label branch to be trained.')


# the first tag of a model is its default
default_cfgs: Dict[str, DefaultCfg] = generate_default_cfgs(
    {
        'gkgnet_224.in1k': _in1k('s'),
        'gkgnet_448.in1k': _in1k('s', 448),
        'gkgnet_576.coco2014': _cfg(
            GKGNET_FILE,
            img_size=576,
            **on_hub('gkgnet_576.coco2014'),
            label_names=COCO_CLASSES,
            notes=(UNVERIFIED,),  # the file has no names, the order is that of the authors' code
            license='other',
            description='The published checkpoint, 87.65 mAP on COCO-2014. For non-commercial use only.',
            origin_url='https://github.com/jin-s13/GKGNet',
        ),
        'gkgnet_576.in1k': _in1k('s', 576),
        'gkgnet_ti_224.in1k': _in1k('ti'),
        'gkgnet_ti_448.in1k': _in1k('ti', 448),
        'gkgnet_ti_576.in1k': _in1k('ti', 576),
        'gkgnet_m_224.in1k': _in1k('m'),
        'gkgnet_m_448.in1k': _in1k('m', 448),
        'gkgnet_m_576.in1k': _in1k('m', 576),
        'gkgnet_b_224.in1k': _in1k('b'),
        'gkgnet_b_448.in1k': _in1k('b', 448),
        'gkgnet_b_576.in1k': _in1k('b', 576),
    }
)


def _create_gkgnet(variant: str, pretrained: bool = False, **kwargs: Any) -> GkgNet:
    return build_model(GkgNet, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


@register_model
def gkgnet_224(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-S at 224 px."""
    return _create_gkgnet('gkgnet_224', pretrained, **dict(VARIANTS['s'], img_size=224) | kwargs)


@register_model
def gkgnet_448(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-S at 448 px."""
    return _create_gkgnet('gkgnet_448', pretrained, **dict(VARIANTS['s'], img_size=448) | kwargs)


@register_model
def gkgnet_576(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-S at 576 px, the published model."""
    return _create_gkgnet('gkgnet_576', pretrained, **dict(VARIANTS['s'], img_size=576) | kwargs)


@register_model
def gkgnet_ti_224(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-Ti at 224 px."""
    return _create_gkgnet('gkgnet_ti_224', pretrained, **dict(VARIANTS['ti'], img_size=224) | kwargs)


@register_model
def gkgnet_ti_448(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-Ti at 448 px."""
    return _create_gkgnet('gkgnet_ti_448', pretrained, **dict(VARIANTS['ti'], img_size=448) | kwargs)


@register_model
def gkgnet_ti_576(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-Ti at 576 px."""
    return _create_gkgnet('gkgnet_ti_576', pretrained, **dict(VARIANTS['ti'], img_size=576) | kwargs)


@register_model
def gkgnet_m_224(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-M at 224 px."""
    return _create_gkgnet('gkgnet_m_224', pretrained, **dict(VARIANTS['m'], img_size=224) | kwargs)


@register_model
def gkgnet_m_448(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-M at 448 px."""
    return _create_gkgnet('gkgnet_m_448', pretrained, **dict(VARIANTS['m'], img_size=448) | kwargs)


@register_model
def gkgnet_m_576(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-M at 576 px."""
    return _create_gkgnet('gkgnet_m_576', pretrained, **dict(VARIANTS['m'], img_size=576) | kwargs)


@register_model
def gkgnet_b_224(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-B at 224 px."""
    return _create_gkgnet('gkgnet_b_224', pretrained, **dict(VARIANTS['b'], img_size=224) | kwargs)


@register_model
def gkgnet_b_448(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-B at 448 px."""
    return _create_gkgnet('gkgnet_b_448', pretrained, **dict(VARIANTS['b'], img_size=448) | kwargs)


@register_model
def gkgnet_b_576(pretrained: bool = False, **kwargs: Any) -> GkgNet:
    """GKGNet-B at 576 px."""
    return _create_gkgnet('gkgnet_b_576', pretrained, **dict(VARIANTS['b'], img_size=576) | kwargs)
