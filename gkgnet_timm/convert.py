"""Weights of any origin as a folder that timm and the Hub take: config.json, model.safetensors, README.md."""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn

import timm
from timm.data import resolve_input_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model_in_modules, load_state_dict, save_for_hf
from timm.utils import ParseKwargs

from .data.dataset import read_class_map
from .factory import create_model, load_model
from .label_rows import init_labels_by_name
from .model_card import model_card
from .models._convert import convert_keys, published_globals
from .models._pretrained import find_problem, installed_file, sha256
from .training.arguments import read_checkpoint_args

RECIPE = ('dataset', 'train_split', 'epochs', 'batch_size', 'opt', 'lr', 'weight_decay', 'sched', 'loss', 'img_size')
RECIPE += ('drop_path', 'cropmix', 'reprob', 'aa', 'color_jitter', 'mixup', 'cutmix', 'amp', 'model_ema', 'seed')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Flags, with those that the checkpoint was trained with in `trained` (empty where it does not say)."""
    parser = argparse.ArgumentParser(prog='python -m gkgnet_timm convert', description=__doc__)
    parser.add_argument('checkpoint', metavar='FILE', help='published GKGNet or Pyramid ViG checkpoint, or one of ours')
    parser.add_argument('--output', required=True, metavar='DIR', help='folder for the three files')
    parser.add_argument(
        '--model', metavar='NAME', help='model that it is of; one of train_multilabel.py says it itself'
    )
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs, metavar='KEY=VALUE')
    parser.add_argument('--use-ema', action='store_true', help='take the average of the weights in the checkpoint')
    parser.add_argument(
        '--class-order', metavar='FILE', help='class names in the order of the checkpoint, one on each line'
    )
    parser.add_argument(
        '--install', action='store_true', help='have create_model(NAME, pretrained=True) load it from now on, offline'
    )
    args = parser.parse_args(argv)
    args.trained = read_checkpoint_args(args.checkpoint)
    if args.trained:
        if args.model or args.model_kwargs:
            raise ValueError(
                f'{args.checkpoint!r} says itself that it is of {args.trained["model"]!r}, leave --model out.'
            )
        args.model, args.model_kwargs = args.trained['model'], args.trained['model_kwargs']
    if not args.model:
        raise ValueError(f'{args.checkpoint!r} does not say what model it is of, give --model NAME.')
    if args.use_ema and not args.trained.get('has_ema'):
        raise ValueError(f'--use-ema: {args.checkpoint!r} holds no average of the weights.')
    args.img_size = args.trained.get('img_size')
    args.pretrained = False
    return args


def _load_published(args: argparse.Namespace) -> Tuple[nn.Module, List[str]]:
    """A model with the weights of a file of other origin, and what became of the tensors of the file."""
    name = args.model.partition('.')[0]
    if not is_model_in_modules(name, ('gkgnet', 'pvig')) or not timm.is_model(name):
        ours = ', '.join(timm.list_models(module=['gkgnet', 'pvig']))
        raise ValueError(f'--model {args.model!r} is none that weights can be converted to: {ours}.')
    try:
        with published_globals():
            state_dict = load_state_dict(args.checkpoint, use_ema=False)
    except Exception as error:
        raise ValueError(f'{args.checkpoint!r} is {find_problem(args.checkpoint)}.') from error
    meta = timm.create_model(name, device='meta', **args.model_kwargs)
    tensors = convert_keys(state_dict, meta.depths)
    classifier = meta.pretrained_cfg['classifier']
    rows = tensors.get(f'{classifier if isinstance(classifier, str) else classifier[0]}.weight')
    if rows is None:
        raise ValueError(
            f'{args.checkpoint!r} has no classifier of {name}. A trunk is converted as what it is, with --model '
            'pvig_*_224: gkgnet_*.in1k take theirs from that.'
        )
    shapes, names, num_classes = {key: value.shape for key, value in tensors.items()}, list(state_dict), len(rows)
    del state_dict, tensors, rows, meta  # the model reads the file itself
    args.pretrained_path = args.checkpoint
    model = create_model(args, num_classes)
    own = {key: value.shape for key, value in model.state_dict().items()}
    dropped = [key for key in names if key.endswith('.relative_pos')]
    resampled = [f'{key} {tuple(shapes[key])} to {tuple(own[key])}' for key in own if own[key] != shapes[key]]
    return model, [
        f'{len(own)} of {len(names)} tensors taken',
        f'{len(dropped)} dropped' + (' (relative_pos, which the model computes)' if dropped else ''),
        f'{len(resampled)} resampled' + (f' ({", ".join(resampled)})' if resampled else ''),
    ]


def _name_labels(model: nn.Module, cfg: PretrainedCfg, order: Optional[str]) -> Sequence[str]:
    """Class names of a file without any: those of the tag, whose order the rows are brought to, or of --class-order."""
    names = read_class_map(order) if order else cfg.label_names or ()
    if order and len(names) != model.num_classes:
        raise ValueError(f'--class-order {order!r} has {len(names)} names, the checkpoint {model.num_classes} classes.')
    if order and sorted(names) == sorted(cfg.label_names or ()):
        init_labels_by_name(model, cfg.label_names, names)
        names = cfg.label_names
    return names if len(names) == model.num_classes else ()


def _install_path(args: argparse.Namespace, cfg: PretrainedCfg, of_tag: bool) -> Path:
    """Where to install, or a ValueError if these are not the weights of the tag."""
    file = installed_file(cfg)
    is_trunk = cfg.url and not args.model.startswith('pvig')
    if not of_tag or args.model_kwargs or is_trunk or file is None:
        raise ValueError(
            f'--install is for the weights that {cfg.architecture}.{cfg.tag} names, these are others: load them by '
            f"create_model('local-dir:{args.output}', pretrained=True)."
        )
    return file


@torch.inference_mode()
def convert(args: argparse.Namespace) -> Path:
    """Convert as the flags say; returns the folder.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not weights of the model, or the model loaded from the folder is another one.
    """
    cfg = get_pretrained_cfg(args.model)
    config: Dict[str, Any] = dict(
        converted_from=dict(file=Path(args.checkpoint).name, sha256=sha256(args.checkpoint), ema=args.use_ema)
    )
    if args.trained:
        names = args.trained['class_names']
        model = load_model(args, len(names), args.use_ema)
        report = [f'{len(model.state_dict())} tensors taken']
        recipe = {key: args.trained[key] for key in RECIPE if args.trained[key] not in (None, False, 0)}
        config['training'] = {key: Path(value).name if key == 'train_split' else value for key, value in recipe.items()}
    else:
        model, report = _load_published(args)
        names = _name_labels(model, cfg, args.class_order)
    if names:
        config['label_names'] = list(names)
    data_config = resolve_input_data_config(model, args=args.trained)
    of_tag = not args.trained and model.num_classes == cfg.num_classes and list(names) == list(cfg.label_names or names)
    target = _install_path(args, cfg, of_tag) if args.install else None
    # what the tag says of its own weights is not known of others
    unknown = (
        ('description', 'label_names') if of_tag else ('description', 'label_names', 'tag', 'license', 'origin_url')
    )
    model.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in unknown}
    if args.trained.get('pretrained'):
        model.pretrained_cfg['license'] = cfg.license

    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.convert-', dir=output) as draft:
        save_for_hf(model, draft, config, safe_serialization=True, data_config=data_config)
        Path(draft, 'README.md').write_text(model_card(json.loads(Path(draft, 'config.json').read_text())))
        shutil.copymode(Path(draft, 'config.json'), Path(draft, 'model.safetensors'))  # safetensors leaves it private
        image = torch.randn(1, *data_config['input_size'], generator=torch.Generator().manual_seed(0))
        expected = model.eval()(image)
        del model
        if not torch.equal(timm.create_model(f'local-dir:{draft}', pretrained=True).eval()(image), expected):
            raise ValueError(f'{args.checkpoint!r}: the converted model gives other outputs than this file.')
        for name in ('config.json', 'README.md', 'model.safetensors'):
            os.replace(Path(draft, name), output / name)
    size = (output / 'model.safetensors').stat().st_size / 1e6
    print(f'{", ".join(report)}; {args.model}, {len(expected[0])} classes, {size:.1f} MB: {output}')
    print('Loaded again, the outputs are the same bit for bit.')
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix('.tmp')
        shutil.copyfile(output / 'model.safetensors', draft)
        os.replace(draft, target)
        print(f'Installed as {target}: create_model({cfg.architecture!r}, pretrained=True) loads it from now on.')
    return output


def main(argv: Optional[List[str]] = None) -> None:
    """Convert as the command line says."""
    convert(parse_args(argv))
