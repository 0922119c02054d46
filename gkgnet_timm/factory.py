"""Models as the scripts create them."""

import argparse
import copy
from pathlib import Path
from typing import Optional

import torch

import timm
from timm.models import (
    is_model_in_modules,
    load_checkpoint,
    load_state_dict,
    parse_model_name,
    resolve_model_input_args,
)

from .models._convert import published_globals

__all__ = ['create_model', 'load_model']


def create_model(args: argparse.Namespace, num_classes: Optional[int]) -> torch.nn.Module:
    """The model of the flags, at their image size. Without a class count it has that of its weights.

    Raises:
        FileNotFoundError: If the file of pretrained weights does not exist.
        ValueError: If timm has no such model, or there are no such weights.
    """
    if parse_model_name(args.model)[0]:  # on the Hub or in a folder
        name = resolve_model_input_args(args.model)['model_name']
    else:
        name = args.model.partition('.')[0]
    if not timm.is_model(name):
        similar = ', '.join(timm.list_models(f'*{name.split("_")[0]}*')[:8]) or 'see timm.list_models()'
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
    try:
        model = timm.create_model(
            args.model, pretrained=args.pretrained or bool(path), num_classes=num_classes, **kwargs
        )
    # weights without a source, tensors that do not fit, unknown arguments, files of another kind
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        source = f' from {path!r}' if path else ''
        raise ValueError(f'Model {args.model!r}{source}: {" ".join(str(error).split())[:300]}') from error
    if args.img_size and not ours and hasattr(model, 'set_input_size'):
        model.set_input_size(args.img_size)
    return model


def _check_classifier(model: torch.nn.Module, path: str) -> None:
    """Raise a ValueError where timm has left the classifier as it starts, whose scores would be noise."""
    with published_globals():
        stored = [value.flatten() for value in load_state_dict(path).values()]
    classifier = model.pretrained_cfg.get('classifier') or ()
    for name in (classifier,) if isinstance(classifier, str) else classifier:
        weight = model.get_submodule(name).weight.detach().flatten()
        if not any(len(value) == len(weight) and torch.equal(value.to(weight), weight) for value in stored):
            raise ValueError(
                f'Weights {path!r} have no {name!r} of {model.num_classes} classes: weights of a trunk, or of other '
                'classes, which --class-map FILE names.'
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
    if args.trained:  # create the model at the size that the weights are of
        creation.img_size, creation.pretrained = args.trained['img_size'], False
    else:
        creation.pretrained_path = args.checkpoint
    model = create_model(creation, num_classes)
    if args.trained:
        try:
            load_checkpoint(model, args.checkpoint, use_ema=use_ema)
        except RuntimeError as error:
            reason = ' '.join(str(error).split())[:200]
            raise ValueError(f'Checkpoint {args.checkpoint!r} does not fit {args.model!r}: {reason}') from error
        if args.img_size != creation.img_size and hasattr(model, 'set_input_size'):
            model.set_input_size(args.img_size)
    elif args.checkpoint:
        _check_classifier(model, args.checkpoint)
    return model
