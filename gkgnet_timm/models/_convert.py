"""Conversion of the published checkpoints, shared by the filters of GKGNet, Pyramid ViG and ViG."""

import logging
import re
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn

from ..layers.position import resample_pos_embed

__all__ = ['check_tensors', 'complete', 'convert_keys', 'unwrap']

_logger = logging.getLogger(__name__)
_PUBLISHED_STEM = 'stem.convs.'
_CONV_NORM = {'0': 'conv', '1': 'bn'}
_BLOCK = {  # published name of a (conv, norm) pair in a block: ours
    '0.fc1': '.grapher.fc1',
    '0.graph_conv.gconv.nn': '.grapher.graph_conv.conv',
    '0.fc2': '.grapher.fc2',
    '1.fc1': '.ffn.fc1',
    '1.fc2': '.ffn.fc2',
}
_DOWNSAMPLE = {'conv': ''}
_HEAD = {
    'label_lt': 'label_embed',
    'head.fc1': 'head_label',
    'head.fc2': 'head_patch',
    'prediction.0': 'head.pre_logits.conv',
    'prediction.1': 'head.pre_logits.bn',
    'prediction.4': 'head.fc',
}


def _convert_key(key: str, stem: Sequence[str], places: Sequence[str]) -> Optional[str]:
    """Return our name of a published tensor, or None for a relative position matrix.

    Args:
        key: Published name, without the `backbone.` that GKGNet puts in front of its trunk.
        stem: Our names of the convolutions of the stem.
        places: Our prefix for each entry of the published flat list of blocks and downsamples.
    """
    if key.endswith('.relative_pos'):
        return None
    if key == 'pos_embed':
        return 'stem.pos_embed'
    if match := re.fullmatch(r'stem\.convs\.(\d+)\.(\w+)', key):
        conv, part = divmod(int(match[1]), 3)  # convolution, norm, activation
        return f'stem.{stem[conv]}.{_CONV_NORM[str(part)]}.{match[2]}'
    if match := re.fullmatch(r'backbone\.(\d+)\.(.+)\.([01])\.(\w+)', key):
        place = places[int(match[1])]
        layers = _DOWNSAMPLE if place.endswith('.downsample') else _BLOCK
        return f'{place}{layers[match[2]]}.{_CONV_NORM[match[3]]}.{match[4]}'
    if match := re.fullmatch(r'gcn_label\.(\d)\.(\d+)\.(.+)\.([01])\.(\w+)', key):
        pair = match[3].replace('ffn.', '1.') if match[3].startswith('ffn.') else f'0.{match[3]}'  # as in the trunk
        part = f'{_BLOCK[pair]}.{_CONV_NORM[match[4]]}'
        return f'label_stages.{match[1]}.blocks.{match[2]}{part}.{match[5]}'
    if match := re.fullmatch(r'ffn_label\.(\d)\.0\.(\w+)', key):
        # projects to the width of the next stage, where ours stands
        return f'label_stages.{int(match[1]) + 1}.proj.{match[2]}'
    module, _, leaf = key.rpartition('.')
    return f'{_HEAD[module]}.{leaf}'


def unwrap(checkpoint: Dict[str, Any]) -> Dict[str, torch.Tensor]:
    """State dict that may be under `state_dict` or `model` of a checkpoint, without `module.` before its names."""
    for wrapper in ('state_dict', 'model'):
        if isinstance(checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
    return {key.removeprefix('module.'): value for key, value in checkpoint.items()}


def _places(depths: Union[int, Sequence[int]]) -> Tuple[Sequence[str], Sequence[str]]:
    """Our names of the convolutions of the stem, and of what is in the published list of blocks and downsamples."""
    if isinstance(depths, int):
        return ('conv1', 'halvings.0', 'halvings.1', 'conv2', 'conv3'), [f'blocks.{block}' for block in range(depths)]
    places = []
    for stage, depth in enumerate(depths):
        places += [f'stages.{stage}.downsample'] if stage > 0 else []
        places += [f'stages.{stage}.blocks.{block}' for block in range(depth)]
    return ('conv1', 'conv2', 'conv3'), places


def convert_keys(checkpoint: Dict[str, Any], depths: Union[int, Sequence[int]]) -> Dict[str, torch.Tensor]:
    """Unwrap a checkpoint and rename published tensors; a state dict of ours passes unchanged.

    Args:
        checkpoint: State dict, or a dict with one under `state_dict` or `model`; `module.` prefixes are removed.
        depths: Blocks of each stage of a pyramid, or the number of blocks of a ViG.

    Raises:
        ValueError: If the checkpoint belongs to a different model.
    """
    state_dict = unwrap(checkpoint)
    if not any(_PUBLISHED_STEM in key for key in state_dict):
        if not any(key.startswith('stem.conv1.') for key in state_dict):
            raise ValueError(
                'Not a checkpoint of GKGNet, Pyramid ViG or ViG: no tensor of its stem among '
                f'{len(state_dict)} entries, the first is {next(iter(state_dict), None)!r}.'
            )
        return state_dict
    stem, places = _places(depths)
    prefix = 'backbone.' if any(key.startswith('backbone.' + _PUBLISHED_STEM) for key in state_dict) else ''
    converted = {}
    for key, value in state_dict.items():
        try:
            name = _convert_key(key.removeprefix(prefix), stem, places)
        except (KeyError, IndexError):
            raise ValueError(
                f'Checkpoint tensor {key!r} has no place in a model of {depths} blocks: another variant?'
            ) from None
        if name is not None:
            converted[name] = value.flatten(1) if name == 'head.fc.weight' else value
    return converted


def complete(state_dict: Dict[str, torch.Tensor], model: nn.Module, branch: Tuple[str, ...]) -> Dict[str, torch.Tensor]:
    """Load a branch whole or not at all: keep the fresh one if the file has none, drop it if the model has none.

    Args:
        state_dict: Tensors by our names.
        model: Model to load them into.
        branch: Prefixes of the tensors of the branch.
    """
    own = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(branch)}
    if not own:
        return {key: value for key, value in state_dict.items() if not key.startswith(branch)}
    if not any(key.startswith(branch) for key in state_dict):
        _logger.warning(f'Only the trunk is pretrained: {", ".join(branch)}* start fresh and are to be trained.')
        model.pretrained_cfg['num_classes'] = 0  # there are none in the weights
        return {**state_dict, **own}
    return state_dict


def check_tensors(
    state_dict: Dict[str, torch.Tensor],
    model: nn.Module,
    head: Sequence[str],
) -> Dict[str, torch.Tensor]:
    """Compare the tensors of a checkpoint with those of the model, before timm loads them.

    timm does not load strictly when class counts differ, so missing tensors would go unnoticed. If its size differs,
    the position embedding is resampled or starts from zero, as `model.pos_embed_init` says. The class count of the file
    is written to the cfg: timm compares it with that of the model to see whether the classifier fits.

    Args:
        state_dict: Tensors by our names.
        model: Model to load them into.
        head: Modules of the classifier, the only ones whose class count may differ.

    Raises:
        ValueError: If a tensor is missing, left over or of a different shape; names the first one.
    """
    kind = type(model).__name__
    expected = model.state_dict()
    cfg = getattr(model, 'pretrained_cfg', {})
    first_conv = cfg.get('first_conv') or ()
    first_convs = {f'{name}.weight' for name in ((first_conv,) if isinstance(first_conv, str) else first_conv)}
    for key in (*expected, *state_dict):
        if key not in state_dict:
            raise ValueError(f'Checkpoint has no tensor {key!r}, which this {kind} needs.')
        if key not in expected:
            raise ValueError(f'Checkpoint tensor {key!r} has no place in this {kind}: another variant or option?')
        if state_dict[key].is_floating_point() and not state_dict[key].isfinite().all():
            raise ValueError(f'Checkpoint tensor {key!r} has nan or infinite numbers.')
        shape, wanted = tuple(state_dict[key].shape), tuple(expected[key].shape)
        if shape == wanted:
            continue
        if key == 'stem.pos_embed' and len(shape) == 4 and shape[:2] == wanted[:2]:
            if model.pos_embed_init == 'zero':
                state_dict[key] = torch.zeros_like(expected[key])
            else:
                state_dict[key] = resample_pos_embed(state_dict[key], *wanted[2:])
            _logger.info(f'Position embedding of {wanted[2:]} for {shape[2:]} of the file: {model.pos_embed_init}.')
        elif key in first_convs and shape[:1] + shape[2:] == wanted[:1] + wanted[2:]:
            pass  # timm adapts the input channels
        elif key.rpartition('.')[0] in head and shape[1:] == wanted[1:]:
            pass  # timm leaves out a classifier for other classes
        else:
            raise ValueError(
                f'Checkpoint tensor {key!r} has shape {shape}, this {kind} needs {wanted}: another variant or option?'
            )
    counts = {len(state_dict[f'{name}.weight']) for name in head if f'{name}.weight' in state_dict}
    if counts and cfg.get('num_classes') and counts != {cfg['num_classes']}:  # 0: see `complete`
        cfg.update(num_classes=counts.pop())
        cfg.pop('label_names', None)
    return state_dict
