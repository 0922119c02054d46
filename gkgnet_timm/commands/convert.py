"""Weights of any origin as a folder that timm and the Hub take: config.json, model.safetensors, README.md."""

import argparse
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn

import timm
from timm.data import resolve_input_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg, load_state_dict, save_for_hf
from timm.utils import ParseKwargs

from ..class_names import read_class_map
from ..label_rows import init_labels_by_name
from ..models._convert import convert_keys
from ..models._pretrained import installed_file
from ..weights.file import find_problem, published_globals, read_checkpoint_args, sha256
from ..weights.load import create_model, load_model
from ..weights.model_card import model_card

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
    beside = Path(args.checkpoint).with_name('config.json')
    if args.checkpoint.endswith('.safetensors') and beside.is_file():
        raise ValueError(
            f'{args.checkpoint!r} is in a folder that timm loads as it is, by the name local-dir:{beside.parent}.'
        )
    if not args.model:
        raise ValueError(f'{args.checkpoint!r} does not say what model it is of, give --model NAME.')
    ours = timm.list_models(module=['gkgnet', 'pvig'])
    if not args.trained and args.model not in (*ours, *timm.list_pretrained('gkgnet*'), *timm.list_pretrained('pvig*')):
        raise ValueError(f'--model {args.model!r} is none that weights can be converted to: {", ".join(ours)}.')
    if args.use_ema and not args.trained.get('has_ema'):
        raise ValueError(f'--use-ema: {args.checkpoint!r} holds no average of the weights.')
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise ValueError(f'--output {args.output!r} is a file, give a folder.')
    args.img_size = args.trained.get('img_size')
    args.pretrained = False
    return args


def _load_published(args: argparse.Namespace) -> Tuple[nn.Module, List[str]]:
    """A model with the weights of a file of other origin, and what became of the tensors of the file."""
    name = args.model.partition('.')[0]
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


def _license_of(model: nn.Module, trained: Dict[str, Any]) -> Optional[str]:
    """Licence of the weights that a training started from, None if that is not known."""
    return model.pretrained_cfg.get('license') if trained['pretrained'] and not trained['pretrained_path'] else None


def _write(folder: Path, model: nn.Module, config: Dict[str, Any], data_config: Dict[str, Any]) -> None:
    """Write the three files, if the model that they make gives the same outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob('.convert-*'):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix='.convert-', dir=folder) as draft:
        save_for_hf(model, draft, config, safe_serialization=True, data_config=data_config)
        Path(draft, 'README.md').write_text(model_card(json.loads(Path(draft, 'config.json').read_text())))
        shutil.copymode(Path(draft, 'config.json'), Path(draft, 'model.safetensors'))  # safetensors leaves it private
        image = torch.randn(1, *data_config['input_size'], generator=torch.Generator().manual_seed(0))
        loaded = timm.create_model(f'local-dir:{draft}', pretrained=True)
        if not torch.equal(loaded.eval()(image), model.eval()(image)):
            raise ValueError(f'{folder}: the model that was written gives other outputs than the one that was read.')
        (folder / 'model.safetensors').unlink(missing_ok=True)  # a kill from here on leaves none with another config
        for name in ('config.json', 'README.md', 'model.safetensors'):
            os.replace(Path(draft, name), folder / name)


def _install(weights: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.install-', dir=target.parent) as draft:  # of this process alone
            os.replace(shutil.copy(weights, draft), target)
    except OSError as error:
        raise OSError(f'--install: {str(target)!r} can not be written ({error.strerror}). Its place follows '
                      'GKGNET_TIMM_CACHE.') from error  # fmt: skip


@torch.inference_mode()
def convert(args: argparse.Namespace) -> None:
    """Convert as the flags say.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not weights of the model, or the model loaded from the folder is another one.
    """
    source = dict(file=Path(args.checkpoint).name, sha256=sha256(args.checkpoint), ema=args.use_ema)
    config: Dict[str, Any] = dict(converted_from=source)
    target, known = None, {}
    if args.trained:
        names = args.trained['class_names']
        model = load_model(args, len(names), args.use_ema)
        report = [f'{len(model.state_dict())} tensors taken']
        recipe = {key: args.trained[key] for key in RECIPE if args.trained[key] not in (None, False, 0)}
        recipe['train_split'] = re.sub(r'^([/~]|\w:\\).*[/\\]', '', str(args.trained['train_split']))  # no folders
        config['training'] = recipe
        known = dict(license=_license_of(model, args.trained))
    else:
        cfg = get_pretrained_cfg(args.model)
        model, report = _load_published(args)
        names = _name_labels(model, cfg, args.class_order)
        # a whole GKGNet is not the trunk that the tag in1k is of
        if model.num_classes == cfg.num_classes and list(names) == list(cfg.label_names or names):
            if cfg.hf_hub_id or args.model.startswith('pvig'):
                known = dict(tag=cfg.tag, license=cfg.license, origin_url=cfg.origin_url)
                target = None if args.model_kwargs else installed_file(cfg)
    if args.install and not target:
        raise ValueError(
            f'--install is for the published weights of a model of this name, {args.checkpoint!r} has others: load '
            f"them by create_model('local-dir:{args.output}', pretrained=True)."
        )
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f'{args.checkpoint!r}: tensor {key!r} has nan or infinite numbers.')
    if names:
        config['label_names'] = list(names)
    # what a tag says of its own weights is not known of others
    said = dict.fromkeys(('description', 'label_names', 'tag', 'license', 'origin_url')) | known
    cfg_of_weights = {**model.pretrained_cfg, **said}
    model.pretrained_cfg = {key: value for key, value in cfg_of_weights.items() if value is not None or key not in said}
    name, output = model.pretrained_cfg['architecture'], Path(args.output)
    _write(output, model, config, resolve_input_data_config(model, args=args.trained))
    size = (output / 'model.safetensors').stat().st_size / 1e6
    print(f'{", ".join(report)}; {name}, {model.num_classes} classes, {size:.1f} MB: {output}')
    print('Loaded again, the outputs are the same bit for bit.')
    if args.install:
        _install(output / 'model.safetensors', target)
        print(f'Installed as {target.resolve()}: create_model({name!r}, pretrained=True) loads it from now on.')


def main(argv: Optional[List[str]] = None) -> None:
    """Convert as the command line says."""
    convert(parse_args(argv))
