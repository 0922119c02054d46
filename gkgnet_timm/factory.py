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
    parse_model_name,
    resolve_model_input_args,
)

__all__ = ['create_model', 'load_model']


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
        if stored_classes and not ours:  # ours look themselves
            kwargs['pretrained_cfg_overlay'].update(num_classes=stored_classes)
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
    elif model.pretrained_cfg['num_classes'] != model.num_classes:  # timm leaves the classifier as it starts
        raise ValueError(
            f'Weights {args.checkpoint or args.model!r} have no classifier of {model.num_classes} classes, but of '
            f'{model.pretrained_cfg["num_classes"]}: those of a trunk, or of other classes, which --class-map FILE names.'
        )
    return model
