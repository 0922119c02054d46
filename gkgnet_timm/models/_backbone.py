"""A timm model as the trunk of a label graph: which ones can be, how they are made, and what they say of themselves."""

import difflib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
import torch.nn as nn

import timm
from timm.layers import to_2tuple
from timm.models import PretrainedCfg, get_pretrained_cfg, parse_model_name

from ..runtime import one_line
from ..weights.file import HTTPError
from ._pretrained import check_hub

__all__ = ['backbone_cfg', 'check_pooling', 'create_backbone', 'filter_backbone', 'prefix_groups']

_OF_INPUT = ('input_size', 'min_input_size', 'fixed_input_size', 'pool_size', 'interpolation', 'mean', 'std')
_NUM_TAPS = 4
Matcher = Union[Dict[str, Any], Callable[[str], Any]]


class Taps(NamedTuple):
    """What a backbone gives to a label graph.

    Attributes:
        indices: The maps taken, as `forward_intermediates` counts them.
        dims: Their channels.
        norm: Whether they pass the norm of the backbone, as those of a plain ViT, whose maps are those of blocks. BEiT
            and others norm what is pooled alone, and have none for maps.
        pooled_dim: Width of what its head pools.
    """

    indices: Tuple[int, ...]
    dims: Tuple[int, ...]
    norm: bool
    pooled_dim: int


def _check_name(name: str) -> None:
    """Raise a ValueError unless a backbone is named as in timm's registry."""
    if not isinstance(name, str) or parse_model_name(name)[0]:
        raise ValueError(f'backbone must be the name of a timm model such as resnet50 or NAME.TAG, got {name!r:.120}.')
    architecture = name.partition('.')[0]
    if not timm.is_model(architecture):
        similar = ', '.join(difflib.get_close_matches(architecture, timm.list_models()))
        raise ValueError(f'Unknown backbone {architecture!r}, similar: {similar or "none, see timm.list_models()"}.')


def default_indices(reductions: Sequence[int]) -> List[int]:
    """Four maps: the last one of each stride from 4 on, or the last ones of a backbone of one stride."""
    indices = [i for i, reduction in enumerate(reductions) if reduction >= 4]
    if len(indices) > _NUM_TAPS and len(set(reductions)) > 1:
        indices = sorted({reductions[i]: i for i in indices}.values())
    return indices[-_NUM_TAPS:]


def _check_indices(name: str, count: int, out_indices: Any) -> List[int]:
    if not isinstance(out_indices, (list, tuple)) or not all(type(i) is int for i in out_indices) or not out_indices:
        raise ValueError(f'out_indices must be numbers of maps such as (1, 2, 3, 4), got {out_indices!r:.80}.')
    if not all(-count <= i < count for i in out_indices):
        raise ValueError(f'out_indices {tuple(out_indices)!r:.80}: {name} has {count} maps, 0 to {count - 1}.')
    indices = [i % count for i in out_indices]
    if sorted(set(indices)) != indices:
        raise ValueError(f'out_indices must rise, got {tuple(out_indices)!r:.80}.')
    return indices


def find_taps(
    name: str,
    backbone: nn.Module,
    out_indices: Optional[Sequence[int]],
    images: torch.Tensor,
    pools: bool = True,
) -> Taps:
    """Try a backbone on images, which may be of the meta device. Its head has to give one row for each if it `pools`.

    Raises:
        ValueError: If it gives no maps for a label graph, or no pooled features: why.
    """
    infos = [dict(info) for info in getattr(backbone, 'feature_info', None) or ()]
    if not (infos and hasattr(backbone, 'forward_intermediates') and hasattr(backbone, 'forward_head')):
        raise ValueError(f'{name} cannot be a backbone: timm has no forward_intermediates for it.')
    reductions = [info['reduction'] for info in infos]
    indices = default_indices(reductions) if out_indices is None else _check_indices(name, len(infos), out_indices)
    norm = len(set(reductions)) == 1
    try:
        features, maps = backbone.forward_intermediates(images, indices=indices, norm=norm)
        pooled = backbone.forward_head(features, pre_logits=True)
    except Exception as error:  # whatever a model raises that is not made for such images
        raise ValueError(f'{name} cannot be a backbone: {type(error).__name__}: {one_line(error, 200)}') from error
    batch = images.shape[0]
    if len(maps) != len(indices) or any(m.ndim != 4 or m.shape[0] != batch for m in maps):
        raise ValueError(f'{name} cannot be a backbone: its maps are not (batch, channels, height, width).')
    if pools and pooled.ndim != 2:
        raise ValueError(f'{name} cannot be a backbone: its head gives {tuple(pooled.shape)}, not one row an image.')
    dims = tuple(m.shape[1] for m in maps)
    return Taps(tuple(indices), dims, norm, pooled.shape[1] if pools else backbone.head_hidden_size)


def _arguments(backbone: nn.Module) -> Set[str]:
    """Arguments of the class of a model; '**' if it passes on more."""
    parameters = inspect.signature(type(backbone).__init__).parameters.values()
    return {'**' if p.kind is p.VAR_KEYWORD else p.name for p in parameters}


def _create(name: str, **options: Any) -> nn.Module:
    try:
        if options.get('pretrained'):
            check_hub(get_pretrained_cfg(name), options['cache_dir'])
        return timm.create_model(name, num_classes=0, **options)
    except (OSError, HTTPError) as error:
        problem = f'{type(error).__name__}: {one_line(error, 200)}'
        raise OSError(
            f'No weights of the backbone {name} ({problem}). Without a network leave out pretrained and '
            'pretrained_backbone, or give a file of them as the weights of the model (--pretrained-path FILE).'
        ) from error
    except Exception as error:  # no weights, arguments that do not fit, and whatever models raise
        raise ValueError(f'Backbone {name}: {one_line(error, 300)}') from error


@torch.no_grad()
def _try_backbone(
    name: str,
    img_size: Union[int, Tuple[int, int], None],
    out_indices: Optional[Sequence[int]],
    options: Dict[str, Any],
    may_have: Dict[str, Any],
) -> Tuple[Dict[str, Any], Taps]:
    """Arguments of a backbone, and its maps, from one without memory: on the meta device.

    Args:
        name: Name in timm's registry.
        img_size: Side or (height, width) for models that are made for a size, None for that of the weights.
        out_indices: Maps to take, None for `default_indices`.
        options: Arguments that every model has.
        may_have: Arguments for models that have them. Others, unless made for one size, do not need what is true.

    Raises:
        ValueError: If it cannot be made, or cannot be a backbone.
    """
    probe = _create(name, **options, device='meta')
    known, cfg = _arguments(probe), probe.pretrained_cfg
    is_fixed = bool(cfg.get('fixed_input_size'))
    for key, value in may_have.items():
        if key in known or (value and is_fixed and '**' in known):
            options = {**options, key: value}
        elif value and is_fixed:
            raise ValueError(f'Backbone {name} is made for one image size and has no {key}: leave it out.')
    size = own_size = tuple(cfg['input_size'][1:])
    if img_size is not None:
        size = tuple(to_2tuple(img_size))
        if 'img_size' in known or (is_fixed and '**' in known):
            options['img_size'] = img_size
        elif is_fixed and size != own_size:
            raise ValueError(f'Backbone {name} takes images of {own_size} alone, not of {size}.')
    probe = _create(name, **options, device='meta')
    images = torch.empty(2, options['in_chans'], *size, device='meta')
    return options, find_taps(name, probe, out_indices, images, options.get('global_pool') != '')


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    in_chans: int = 3,
    img_size: Union[int, Tuple[int, int], None] = None,
    global_pool: Optional[str] = None,
    out_indices: Optional[Sequence[int]] = None,
    drop_path_rate: Optional[float] = None,
    dynamic_img_size: Optional[bool] = None,
    dynamic_img_pad: Optional[bool] = None,
    cache_dir: Union[str, Path, None] = None,
    device: Union[str, torch.device, None] = None,
    dtype: Optional[torch.dtype] = None,
) -> Tuple[nn.Module, Taps]:
    """Create a timm model without its classifier, and find the maps that it gives to a label graph.

    Args:
        name: Name in timm's registry, with a tag or without.
        pretrained: Load its weights, those of the tag.
        in_chans: Number of input channels.
        img_size: Side or (height, width) for models that are made for a size, None for that of the weights.
        global_pool: Pooling of its head, None for its own.
        out_indices: Maps to take, as `forward_intermediates` counts them; None for `default_indices`.
        drop_path_rate: Stochastic depth, None for its own.
        dynamic_img_size: Take images of any size, for models that have this argument; None for its own.
        dynamic_img_pad: Pad images, likewise.
        cache_dir: Folder of downloaded weights.
        device: Device of parameters and buffers.
        dtype: Type of parameters and buffers.

    Raises:
        OSError: If its weights cannot be downloaded.
        ValueError: If there is no such model, or it cannot be a backbone: why.
    """
    _check_name(name)
    options = dict(in_chans=in_chans)
    if global_pool is not None:
        options['global_pool'] = global_pool
    may_have = dict(dynamic_img_size=dynamic_img_size, dynamic_img_pad=dynamic_img_pad)
    (options if drop_path_rate else may_have)['drop_path_rate'] = drop_path_rate
    options, may_have = ({k: v for k, v in group.items() if v is not None} for group in (options, may_have))
    options, taps = _try_backbone(name, img_size, out_indices, options, may_have)
    backbone = _create(name, pretrained=pretrained, cache_dir=cache_dir, **options, device=device, dtype=dtype)
    return backbone, taps


def check_pooling(backbone: nn.Module, old: str, new: str) -> None:
    """Raise a ValueError if a backbone made with another pooling has other tensors: its file could not be loaded."""
    name = backbone.pretrained_cfg['architecture']
    old_keys, new_keys = (_create(name, global_pool=pool, device='meta').state_dict().keys() for pool in (old, new))
    if old_keys != new_keys:
        raise ValueError(f'Another norm goes with it: create the model with global_pool={new!r}.')


def backbone_cfg(name: str) -> Dict[str, Any]:
    """What the cfg of a label graph takes from that of its backbone's weights: their input, and their licence."""
    _check_name(name)
    try:
        source = get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        known = ', '.join(timm.list_pretrained(name.partition('.')[0])) or 'none'
        raise ValueError(f'Unknown weights of a backbone {name!r}, known: {known}.') from error
    source = source or PretrainedCfg()
    first = source.first_conv
    first = tuple(f'backbone.{conv}' for conv in first) if isinstance(first, (tuple, list)) else f'backbone.{first}'
    return dict(
        {key: getattr(source, key) for key in _OF_INPUT},
        first_conv=first if source.first_conv else None,
        license=source.license,
        description=f'Label graph on {name}.',
        origin_url=source.origin_url,
    )


def prefix_groups(matcher: Matcher, prefix: str) -> Matcher:
    """A group matcher of timm for the same modules in a place of their own. What is elsewhere is in no group."""
    if callable(matcher):
        return lambda name: matcher(name.removeprefix(prefix)) if name.startswith(prefix) else float('inf')

    def prefixed(pattern: str) -> str:
        alternatives = re.sub(r'(^|[|(])\^', r'\1', pattern)  # each may begin with ^
        return f'^{re.escape(prefix)}(?:{alternatives})'

    return {
        group: spec
        and (prefixed(spec) if isinstance(spec, str) else [(prefixed(pattern), suffix) for pattern, suffix in spec])
        for group, spec in matcher.items()
    }


def filter_backbone(state_dict: Dict[str, torch.Tensor], backbone: nn.Module) -> Dict[str, torch.Tensor]:
    """The tensors of a file for a backbone, by timm's filter for files of such models, without the classifier."""
    module = sys.modules[type(backbone).__module__]
    if filter_fn := getattr(module, 'checkpoint_filter_fn', None):
        state_dict = filter_fn(state_dict, backbone)
    classifier = backbone.pretrained_cfg.get('classifier') or ()
    classifier = (classifier,) if isinstance(classifier, str) else classifier
    removed = tuple(f'{name}.' for name in classifier)
    expected = backbone.state_dict()
    return {key: value for key, value in state_dict.items() if key in expected or not key.startswith(removed)}
