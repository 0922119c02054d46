"""The label graph of GKGNet on any timm backbone.

Paper: `GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition`
    - https://arxiv.org/abs/2308.14378

What GKGNet adds to a trunk needs nothing of it but feature maps: label nodes choose patches in each of them. Finally a
class is scored from its own node and from what the backbone's own head pools.
"""

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple, Union

import torch
import torch.nn as nn

from timm.layers import calculate_drop_path_rates, to_2tuple
from timm.models import DefaultCfg, generate_default_cfgs, named_apply, register_model, resolve_pretrained_cfg

from ..runtime import one_line
from ._backbone import Matcher, backbone_cfg, check_pooling, create_backbone, filter_backbone, prefix_groups
from ._checks import check_classifier, check_options, check_positive, check_size
from ._compat import feature_take_indices, get_global_pool, get_model_traits, jit_ignore, update_model_input_size
from ._convert import check_tensors, complete, unwrap
from ._label_graph import LABEL_CFG, LABEL_CLASSIFIER, LabelBranch, init_label_branch
from ._pretrained import build_model
from ._scripted import ScriptedMaps, scripted_kind

__all__ = ['GkgNetBackbone']

_WIDEST = 640  # label nodes of the published model
_logger = logging.getLogger(__name__)


def _check_head(num_classes: int, global_pool: Optional[str]) -> None:
    """Raise a ValueError for no class count, or classes without pooled features. Poolings are those of the backbone."""
    if global_pool is not None and not isinstance(global_pool, str):
        raise ValueError(f'global_pool must be the name of a pooling, got {global_pool!r:.80}.')
    check_classifier(num_classes, '' if global_pool == '' else 'avg')


class GkgNetBackbone(LabelBranch, ScriptedMaps, nn.Module):
    """The label graph of GKGNet over the maps of any timm model.

    Args:
        backbone: Name of the model in timm's registry, with a tag or without.
        pretrained_backbone: Load its weights, those of the tag. The label branch starts fresh.
        img_size: Image side or (height, width), for backbones that are made for a size. None for that of the weights.
        in_chans: Number of input channels.
        num_classes: Number of classes L, each a label node. 0 for the backbone alone, which gives pooled features.
        global_pool: Pooling of the backbone's head, None for its own, '' for none (without classifier).
        out_indices: Maps that label nodes look at, as `forward_intermediates` of the backbone counts them. By default
            the last one of each stride from 4 on, of a plain ViT the last four.
        label_dim: Width of label nodes, to which maps are projected for them. By default the channels of each map, at
            most those of the published model, 640, and down to what the groups divide.
        label_k: Neighbours of every label node.
        num_groups: Channel groups with a graph each. 1 is the graph of ViG.
        label_depth: Label blocks at the last map; the others have one each.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the backbone; in label blocks it rises from 0 by map. None for that of the
            backbone, and none in label blocks.
        dynamic_img_size: Take images of any size, for backbones that have this argument; None for their own.
        dynamic_img_pad: Pad images, likewise.
        cache_dir: Folder of downloaded weights of the backbone.
        device: Device of parameters and buffers.
        dtype: Type of parameters and buffers.

    Raises:
        OSError: If weights of the backbone cannot be downloaded.
        ValueError: If there is no such backbone, or it does not give what a label graph needs: why.
    """

    def __init__(
        self,
        backbone: str = 'resnet50',
        pretrained_backbone: bool = False,
        img_size: Union[int, Tuple[int, int], None] = None,
        in_chans: int = 3,
        num_classes: int = 80,
        global_pool: Optional[str] = None,
        out_indices: Optional[Tuple[int, ...]] = None,
        label_dim: Optional[int] = None,
        label_k: int = 9,
        num_groups: int = 2,
        label_depth: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: Optional[float] = None,
        dynamic_img_size: Optional[bool] = None,
        dynamic_img_pad: Optional[bool] = None,
        cache_dir: Union[str, Path, None] = None,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        check_positive(in_chans=in_chans, num_groups=num_groups, label_dim=_WIDEST if label_dim is None else label_dim)
        options = dict(
            drop_path_rate=drop_path_rate, dynamic_img_size=dynamic_img_size, dynamic_img_pad=dynamic_img_pad
        )
        given = {name: value for name, value in options.items() if value is not None}
        check_options(drop_rate=drop_rate, pretrained_backbone=pretrained_backbone, **given)
        _check_head(num_classes, global_pool)
        if img_size is not None:
            check_positive(**{f'img_size[{i}]': side for i, side in enumerate(to_2tuple(img_size))})
        unit = math.lcm(2, num_groups)  # of the width of label nodes
        if label_dim is not None and label_dim % unit:
            raise ValueError(f'label_dim must be a multiple of {unit} for num_groups={num_groups}, got {label_dim}.')
        self.in_chans = in_chans
        self.backbone: nn.Module
        self.backbone, taps = create_backbone(
            backbone,
            pretrained=pretrained_backbone,
            in_chans=in_chans,
            img_size=img_size,
            global_pool=global_pool,
            out_indices=out_indices,
            cache_dir=cache_dir,
            **options,
            **dd,
        )
        self.out_indices: List[int] = list(taps.indices)
        self.norm_maps: bool = taps.norm
        infos = [dict(info) for info in self.backbone.feature_info]
        self.feature_info: List[Dict[str, Any]] = [
            dict(infos[i], num_chs=dim, module=f'backbone.{infos[i]["module"]}')
            for i, dim in zip(taps.indices, taps.dims)
        ]
        self.global_pool = get_global_pool(self.backbone) if global_pool is None else global_pool
        self.num_features: int = self.backbone.num_features
        self.head_hidden_size: int = taps.pooled_dim
        self._traits = {'fixed_input_size': get_model_traits(self.backbone)['fixed_input_size']}
        if kind := scripted_kind(self.backbone):
            setattr(self, f'is_{kind}', True)
        self.head_drop: nn.Dropout = nn.Dropout(drop_rate)
        dims = [label_dim or min(dim, _WIDEST) // unit * unit for dim in taps.dims]
        if 0 in dims:
            raise ValueError(f'num_groups={num_groups}: a map has {min(taps.dims)} channels, give a label_dim.')
        check_positive(label_depth=label_depth)
        check_size([1] * (len(dims) - 1) + [label_depth], dims)
        rates = calculate_drop_path_rates(drop_path_rate or 0.0, len(dims))
        self._build_label_branch(
            num_classes, taps.dims, dims, taps.pooled_dim, label_k, num_groups, label_depth, rates, **dd
        )
        self._init_labels()

    @jit_ignore
    def _init_weights(self, module: nn.Module, name: str = '') -> None:
        init_label_branch(module, name)

    @jit_ignore
    def _init_labels(self) -> None:
        named_apply(self._init_weights, self.label_stages)
        for name in LABEL_CLASSIFIER:
            if self.num_classes > 0:
                self._init_weights(getattr(self, name), name)

    @jit_ignore
    def init_weights(self) -> None:
        """Initialise the label branch, and the backbone as timm does where it can."""
        if hasattr(self.backbone, 'init_weights'):
            self.backbone.init_weights()
        self._init_labels()

    @jit_ignore
    def no_weight_decay(self) -> Set[str]:
        """Return the names of parameters that the backbone exempts from weight decay."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, 'no_weight_decay') else ()
        return {f'backbone.{name}' for name in names}

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> Matcher:
        """Return patterns of parameter names by layer of the backbone, for timm's layer decay.

        Raises:
            ValueError: If the backbone has none.
        """
        # the label branch is in no group: it starts fresh, so layer decay takes it for the last layer
        if not hasattr(self.backbone, 'group_matcher'):
            raise ValueError(f'{type(self.backbone).__name__} has no groups of layers, as --layer-decay needs them.')
        return prefix_groups(self.backbone.group_matcher(coarse=coarse), 'backbone.')

    @jit_ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade activations for a second forward pass in training.

        Raises:
            ValueError: If the backbone cannot.
        """
        try:
            self.backbone.set_grad_checkpointing(enable)
        except AssertionError as error:  # as timm says it
            raise ValueError(f'{type(self.backbone).__name__}: {error} (--grad-checkpointing).') from error
        self.grad_checkpointing = enable
        for stage in self.label_stages:
            stage.grad_checkpointing = enable

    @jit_ignore
    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Set the image size of the backbone, if it is made for one.

        Raises:
            ValueError: If it is made for one size alone.
        """
        if hasattr(self.backbone, 'set_input_size'):
            self.backbone.set_input_size(img_size=img_size)
        elif self._traits['fixed_input_size'] and tuple(to_2tuple(img_size)) != self._traits.get('img_size'):
            raise ValueError(f'{type(self.backbone).__name__} cannot change its image size: create it with img_size.')
        update_model_input_size(self, img_size)

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the label embedding and score layers by fresh ones for a different class count.

        The label blocks are kept; 0 classes removes the whole label branch. The pooling stays unless one is given.

        Raises:
            ValueError: For a pooling that the backbone does not have, or with which it has other layers.
        """
        _check_head(num_classes, self.global_pool if global_pool is None else global_pool)
        if global_pool is not None and global_pool != self.global_pool:
            if any('cat' in str(pool) for pool in (global_pool, self.global_pool)):
                raise ValueError(
                    f'Pooled features get another width: create the model with global_pool={global_pool!r}.'
                )
            try:
                check_pooling(self.backbone, self.global_pool, global_pool)
                self.backbone.reset_classifier(0, global_pool)
            except Exception as error:  # whatever timm raises for names of poolings
                raise ValueError(f'global_pool={global_pool!r} of this backbone: {one_line(error)}') from error
            self.global_pool = global_pool
        self._reset_labels(num_classes)

    def _forward_maps(self, x: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Features of the backbone, and the maps that label nodes look at."""
        if torch.jit.is_scripting():
            if hasattr(self, 'is_resnet'):
                return self._resnet_maps(x)
            if hasattr(self, 'is_vit'):
                return self._vit_maps(x)
        output = self.backbone.forward_intermediates(x, indices=self.out_indices, norm=self.norm_maps)
        assert isinstance(output, tuple)  # for TorchScript
        return output[0], output[1]

    def _join(self, features: torch.Tensor, label_nodes: torch.Tensor) -> List[torch.Tensor]:
        return [features, label_nodes]

    def _with_labels(self, features: torch.Tensor, maps: List[torch.Tensor]) -> List[torch.Tensor]:
        return [features] if self.label_embed is None else [features, self.forward_labels(maps)[0][-1]]

    def forward_features(self, x: torch.Tensor) -> List[torch.Tensor]:
        """Features of the backbone, in its own format, and label nodes (B, L, D) if there are any."""
        features, maps = self._forward_maps(x)
        return self._with_labels(features, maps)

    def forward_head(self, x: List[torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, L) of what `forward_features` gives, or the features that the backbone's head pools (B, P)."""
        pooled = self.head_drop(self.backbone.forward_head(x[0], pre_logits=True))
        if pre_logits or self.head_label is None or self.head_patch is None:
            return pooled
        return self.score(self.head_drop(x[1]), pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, L) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[List[torch.Tensor], List[torch.Tensor]]]:
        """The maps that label nodes look at.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Take the last n of these maps if int, all if None, the given ones if a sequence.
            norm: Has no effect, the maps are those that label nodes see.
            stop_early: Do not run the backbone after the last map taken.
            output_fmt: 'NCHW', the only format.
            intermediates_only: Return the maps alone, and compute nothing else.

        Returns:
            The maps, or features as of `forward_features` and maps.
        """
        assert output_fmt == 'NCHW', 'Output format must be NCHW.'
        take_indices, _ = feature_take_indices(len(self.out_indices), indices)
        if intermediates_only:
            return self.backbone.forward_intermediates(
                x,
                indices=[self.out_indices[i] for i in take_indices],
                norm=self.norm_maps,
                stop_early=stop_early,
                intermediates_only=True,
            )
        features, maps = self._forward_maps(x)
        return self._with_labels(features, maps), [maps[i] for i in take_indices]

    def prune_intermediate_layers(
        self,
        indices: Union[int, List[int]] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> List[int]:
        """Drop what follows the last map taken, and the label branch unless `prune_head` is False and it still fits."""
        take_indices, max_index = feature_take_indices(len(self.out_indices), indices)
        if prune_head or max_index < len(self.out_indices) - 1:
            prune_norm = prune_norm and not self.norm_maps  # maps pass it
            self.backbone.prune_intermediate_layers([self.out_indices[max_index]], prune_norm, True)
            self.out_indices = self.out_indices[: max_index + 1]
            self.num_features = self.feature_info[max_index]['num_chs']
            self.head_hidden_size = self.num_features
            self.global_pool = ''  # of a backbone without a head
            self._reset_labels(0)
            self._keep_maps(max_index + 1, self.num_features)
        return take_indices


def checkpoint_filter_fn(state_dict: Dict[str, Any], model: GkgNetBackbone) -> Dict[str, torch.Tensor]:
    """State dict of this model from one of its own, or from a file of its backbone: then the label branch stays fresh.

    Raises:
        ValueError: If a tensor is missing, left over or has another shape.
    """
    state_dict = unwrap(state_dict)
    prefix = 'backbone.'
    if any(key.startswith(prefix) for key in state_dict):
        trunk = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith(prefix)}
    else:
        trunk, state_dict = state_dict, {}
    state_dict.update({prefix + key: value for key, value in filter_backbone(trunk, model.backbone).items()})
    state_dict = complete(state_dict, model, ('label_', 'head_'))
    try:
        return check_tensors(state_dict, model, LABEL_CLASSIFIER)
    except ValueError as error:
        name = model.backbone.pretrained_cfg['architecture']
        raise ValueError(f'Not of a label graph on {name} (backbone=): {error}') from error


def _cfg(backbone: str) -> Dict[str, Any]:
    return {'url': '', 'num_classes': 80, **LABEL_CFG, **backbone_cfg(backbone)}


BACKBONES = {
    'gkgnet_backbone': 'resnet50',
    'gkgnet_resnet50': 'resnet50',
    'gkgnet_convnext_tiny': 'convnext_tiny',
    'gkgnet_swin_tiny': 'swin_tiny_patch4_window7_224',
    'gkgnet_vit_small': 'vit_small_patch16_224',
    'gkgnet_efficientnet_lite0': 'efficientnet_lite0',
}
default_cfgs: Dict[str, DefaultCfg] = generate_default_cfgs(
    {name: _cfg(backbone) for name, backbone in BACKBONES.items()}
)


def _create_gkgnet_backbone(variant: str, pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Build a label graph on a backbone. Weights of its own come with those of the backbone; else these are loaded."""
    backbone = kwargs.setdefault('backbone', BACKBONES[variant])
    overlay = dict(kwargs.pop('pretrained_cfg_overlay', None) or {})
    cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), overlay)
    if not kwargs.get('pretrained_cfg'):
        overlay = backbone_cfg(backbone) | overlay
    is_fresh = pretrained and not (cfg.source or cfg.has_weights or cfg.state_dict)
    if is_fresh:
        kwargs['pretrained_backbone'] = True
    elif pretrained or cfg.source:  # a config records whether the backbone was pretrained when training began
        kwargs['pretrained_backbone'] = False
    model = build_model(
        partial(GkgNetBackbone, cache_dir=kwargs.get('cache_dir')),
        variant,
        pretrained and not is_fresh,
        feature_indices=None,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )
    if is_fresh:
        _logger.warning(f'Only the backbone {backbone} is pretrained: the label branch starts fresh, to be trained.')
        model.pretrained_cfg['num_classes'] = 0  # there are none in the weights
    return model


@register_model
def gkgnet_backbone(pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Label graph on the timm model that `backbone` names, by default ResNet-50."""
    return _create_gkgnet_backbone('gkgnet_backbone', pretrained, **kwargs)


@register_model
def gkgnet_resnet50(pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Label graph on ResNet-50."""
    return _create_gkgnet_backbone('gkgnet_resnet50', pretrained, **kwargs)


@register_model
def gkgnet_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Label graph on ConvNeXt-T."""
    return _create_gkgnet_backbone('gkgnet_convnext_tiny', pretrained, **kwargs)


@register_model
def gkgnet_swin_tiny(pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Label graph on Swin-T."""
    return _create_gkgnet_backbone('gkgnet_swin_tiny', pretrained, **kwargs)


@register_model
def gkgnet_vit_small(pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Label graph on ViT-S/16."""
    return _create_gkgnet_backbone('gkgnet_vit_small', pretrained, **kwargs)


@register_model
def gkgnet_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> GkgNetBackbone:
    """Label graph on EfficientNet-Lite0."""
    return _create_gkgnet_backbone('gkgnet_efficientnet_lite0', pretrained, **kwargs)
