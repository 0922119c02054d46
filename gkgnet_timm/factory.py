"""Models as the scripts create them."""

import argparse
from pathlib import Path
from typing import Optional

import torch

import timm
from timm.models import is_model_in_modules

__all__ = ['create_model']


def create_model(args: argparse.Namespace, num_classes: Optional[int]) -> torch.nn.Module:
    """The model of the flags, at their image size. Without a class count it has that of its name.

    Raises:
        FileNotFoundError: If the file of pretrained weights does not exist.
        ValueError: If timm has no such model, or there are no such weights.
    """
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
