"""Models as the scripts create them."""

import argparse
import copy
import difflib
import json
from pathlib import Path
from typing import List, Optional, Tuple

import torch

import timm
from timm.models import (
    is_model_in_modules,
    load_checkpoint,
    parse_model_name,
    resolve_model_input_args,
)

from ..label_rows import init_labels_by_name
from .file import read_checkpoint_args

__all__ = ['create_model', 'create_model_by_labels', 'load_model']


def _stored_names(path: str) -> List[str]:
    """Class names that come with weights, in our checkpoints or in the config.json that timm writes beside a
    safetensors file. Empty where there are none."""
    if not path.endswith('.safetensors'):
        return read_checkpoint_args(path).get('class_names', [])
    config = Path(path).with_name('config.json')
    if not config.is_file():
        return []
    try:
        content = json.loads(config.read_text(encoding='utf-8'))
        names = content.get('label_names') or content.get('pretrained_cfg', {}).get('label_names')
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{str(config)!r} beside the weights is not the config of a timm model ({error}).') from error
    return names if isinstance(names, list) else []  # timm has also mappings of some classes


def create_model(
    args: argparse.Namespace, num_classes: Optional[int], stored_classes: Optional[int] = None
) -> torch.nn.Module:
    """The model of the flags, at their image size.

    Args:
        args: Flags.
        num_classes: Classes, None for those of the weights.
        stored_classes: Classes of a file of weights, None for those that the model has registered.

    Raises:
        FileNotFoundError: If the file of pretrained weights does not exist.
        ValueError: If timm has no such model, or there are no such weights.
    """
    if parse_model_name(args.model)[0]:  # on the Hub or in a folder
        name = resolve_model_input_args(args.model)['model_name']
    else:
        name = args.model.partition('.')[0]
    if not timm.is_model(name):
        similar = ', '.join(difflib.get_close_matches(name, timm.list_models())) or 'none, see timm.list_models()'
        raise ValueError(f'Unknown model {name!r}, similar ones: {similar}.')
    kwargs = dict(args.model_kwargs)
    for key, flag in (('drop_rate', 'drop'), ('drop_path_rate', 'drop_path')):
        if getattr(args, flag, None) is not None:
            kwargs[key] = getattr(args, flag)
    ours = is_model_in_modules(name, ('gkgnet', 'pvig'))
    if ours:
        kwargs['pos_embed_init'] = getattr(args, 'pos_embed_init', 'resample')
        if args.img_size:
            kwargs['img_size'] = args.img_size
    path = getattr(args, 'pretrained_path', None)
    if path:
        if not Path(path).is_file():
            raise FileNotFoundError(f'Pretrained weights {path!r} do not exist.')
        kwargs['pretrained_cfg_overlay'] = dict(file=path)
        names = _stored_names(path) if num_classes is None else []
        if names:
            kwargs['pretrained_cfg_overlay'].update(num_classes=len(names), label_names=names)
        elif stored_classes and not ours:  # ours look themselves
            kwargs['pretrained_cfg_overlay'].update(num_classes=stored_classes)
    try:
        model = timm.create_model(
            args.model, pretrained=args.pretrained or bool(path), num_classes=num_classes, **kwargs
        )
    # weights without a source, tensors that do not fit, unknown arguments, files of another kind
    except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
        source = f' from {path!r}' if path else ''
        raise ValueError(f'Model {args.model!r}{source}: {" ".join(str(error).split())[:300]}') from error
    if args.img_size and not ours and hasattr(model, 'set_input_size'):
        model.set_input_size(args.img_size)
    return model


def _check_classifier(model: torch.nn.Module, source: str, remedy: str) -> None:
    """Raise a ValueError where timm has left the classifier as it starts, whose scores would be noise."""
    known = model.pretrained_cfg['num_classes']
    if known != model.num_classes:
        raise ValueError(
            f'Weights {source!r} have no classifier of {model.num_classes} classes, but of {known}: those of a trunk, '
            f'or of other classes, {remedy}.'
        )


def load_model(args: argparse.Namespace, num_classes: Optional[int], use_ema: bool = False) -> torch.nn.Module:
    """The model of the flags with the weights that they say, at their image size.

    Args:
        args: Flags. `trained` is those that the checkpoint was trained with, empty for weights of other origin.
        num_classes: Classes, None for those of the weights.
        use_ema: Whether to take the average of the weights in the checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If it does not fit the model, or has no classifier of so many classes.
    """
    creation = copy.copy(args)
    if str(args.checkpoint).endswith('.safetensors'):
        folder = Path(args.checkpoint).parent
        if (folder / 'config.json').is_file():
            raise ValueError(
                f'Weights {args.checkpoint!r} are of a folder that says their size, preprocessing and classes: give '
                f'--model local-dir:{folder} --pretrained in place of --checkpoint.'
            )
    if args.trained:  # create the model at the size that the weights are of
        creation.img_size, creation.pretrained = args.trained['img_size'], False
    else:
        creation.pretrained_path = args.checkpoint
    # what timm says of its own weights is not true of a file
    model = create_model(creation, num_classes, num_classes if args.checkpoint else None)
    if args.trained:
        try:
            load_checkpoint(model, args.checkpoint, use_ema=use_ema)
        except RuntimeError as error:
            reason = ' '.join(str(error).split())[:200]
            raise ValueError(f'Checkpoint {args.checkpoint!r} does not fit {args.model!r}: {reason}') from error
        if args.img_size != creation.img_size and hasattr(model, 'set_input_size'):
            model.set_input_size(args.img_size)
    else:
        _check_classifier(model, args.checkpoint or args.model, 'which --class-map FILE names')
    return model


def create_model_by_labels(args: argparse.Namespace, class_names: List[str]) -> Tuple[torch.nn.Module, List[str]]:
    """The pretrained model of the flags for other classes, and those of them that its weights know by name.

    Raises:
        FileNotFoundError: If the file of pretrained weights does not exist.
        ValueError: If there are no such weights, they do not name their classes, or share none.
    """
    flag, path = '--init-labels-by-name', args.pretrained_path
    model = create_model(args, None)
    names = model.pretrained_cfg.get('label_names')
    if not names:
        raise ValueError(
            f'{flag}: weights {path or args.model!r} do not name their classes. Give --pretrained-path with a '
            "checkpoint of train_multilabel.py, or a safetensors file with 'label_names' in config.json beside it; "
            'with the published GKGNet file --model gkgnet_576, at any --img-size.'
        )
    _check_classifier(model, path or args.model, f'leave out {flag}')
    known = init_labels_by_name(model, class_names)
    if not known:
        raise ValueError(
            f'{flag}: none of the {len(class_names)} classes ({", ".join(class_names[:3])}, ...) is one of the '
            f'{len(names)} of the pretrained weights ({", ".join(names[:3])}, ...), leave it out.'
        )
    return model, known
