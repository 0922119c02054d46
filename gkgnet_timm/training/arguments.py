"""Flags of training, with the names of timm's, and the files they may come from."""

import argparse
import difflib
import os
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import torch
import yaml

from timm.models import safe_model_name
from timm.utils import ParseKwargs, load_checkpoint_metadata

from ..loss import LOSSES
from ..models._convert import published_globals
from ..models._pretrained import find_problem

__all__ = [
    'KeyValues',
    'add_data_args',
    'add_run_args',
    'blame',
    'check_device',
    'check_outputs',
    'check_ranges',
    'check_weights',
    'data_kwargs',
    'flag_values',
    'parse_args',
    'read_checkpoint_args',
]

DEFAULT_SPLITS = {  # training, evaluation
    'demo': ('train', 'val'),
    'coco': ('train2014', 'val2014'),
    'voc': ('2007/trainval', '2007/test'),
    'gkgnet': ('train.data', 'val_test.data'),
    'csv': ('train.csv', 'val.csv'),
}
DEFAULT_IMAGES = {'gkgnet': ('train2014', 'val2014')}
RANGES = {  # closed ones
    'smoothing': (0, 0.999),
    'mixup': (0, 100),
    'cutmix': (0, 100),
    'mixup_prob': (0, 1),
    'mixup_switch_prob': (0, 1),
    'aug_repeats': (0, 100),
    'model_ema_decay': (0, 1),
    'clip_grad': (0, float('inf')),
    'layer_decay': (0, 1),
    'decay_epochs': (1e-9, float('inf')),
    'epochs': (1, float('inf')),
    'batch_size': (1, float('inf')),
    'validation_batch_size': (1, float('inf')),
    'grad_accum_steps': (1, float('inf')),
    'checkpoint_hist': (1, float('inf')),
    'log_interval': (1, float('inf')),
    'workers': (0, float('inf')),
    'img_size': (1, float('inf')),
    'num_classes': (1, float('inf')),
    'num_samples': (1, float('inf')),
    'topk': (1, float('inf')),
    'crop_pct': (0.01, 1.5),
    'seed': (0, 2**32 - 1),
}
SCHEDULES = ('cosine', 'step', 'multistep', 'constant', 'poly', 'tanh', 'wsd', 'rsqrt')


class KeyValues(ParseKwargs):
    """timm's KEY=VALUE pairs, with an error for what is none."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: List[str], option: Any = None) -> None:
        odd = next((value for value in values if '=' not in value), None)
        if odd is not None:
            parser.error(f'{option}: expected KEY=VALUE, got {odd!r}')
        super().__call__(parser, namespace, values, option)


@contextmanager
def blame(flags: str) -> Iterator[None]:
    """Turn what the libraries raise for wrong values of flags into a ValueError that names the flags."""
    try:
        yield
    except (TypeError, KeyError, IndexError, AssertionError, RuntimeError, ZeroDivisionError, ValueError) as error:
        reason = ' '.join(str(error).split())[:200] or 'a value is out of range'
        raise ValueError(f'{flags}: {reason} ({type(error).__name__}).') from error


def check_ranges(args: argparse.Namespace) -> None:
    """Raise a ValueError that names the first flag that is out of its range, nan included."""
    for name, (low, high) in RANGES.items():
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            expected = f'at least {low}' if high == float('inf') else f'from {low} to {high}'
            raise ValueError(f'--{name.replace("_", "-")} has to be {expected}, got {value}.')


def check_outputs(args: argparse.Namespace, files: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Raise an OSError if flags for output name what can not become a file, or a folder: now, not after all images."""
    for name in (*files, *folders):
        if getattr(args, name) is None:
            continue
        path = Path(getattr(args, name)).absolute()
        shown = f'--{name.replace("_", "-")} {getattr(args, name)!r}'
        if name in folders:
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            if not existing.is_dir():
                raise NotADirectoryError(f'{shown}: {existing.name!r} is a file, give a folder.')
        elif path.is_dir():
            raise IsADirectoryError(f'{shown} is a folder, give a file.')
        elif not path.parent.is_dir():
            raise FileNotFoundError(f'{shown}: there is no such folder.')


def check_device(device: Union[str, torch.device]) -> torch.device:
    """A device that can hold numbers, or else a ValueError."""
    with blame(f'--device {str(device)!r}'):
        device = torch.device(device)
        torch.zeros(1, device=device).item()
    return device


def check_weights(args: argparse.Namespace) -> None:
    """Raise a ValueError if flags name no weights, or others than the checkpoint has, whose flags are `trained`."""
    trained = args.trained
    if not args.checkpoint and not (args.model and args.pretrained):
        raise ValueError('No weights: give --checkpoint FILE, or --model NAME --pretrained.')
    if not args.model:
        raise ValueError(f'Checkpoint {args.checkpoint!r} does not say which model it is of, give --model NAME.')
    if trained and args.model.partition('.')[0] != trained['model'].partition('.')[0]:
        raise ValueError(f'Checkpoint {args.checkpoint!r} is of model {trained["model"]!r}, not {args.model!r}.')
    if args.use_ema and not trained.get('has_ema'):
        raise ValueError(
            f'--use-ema: {args.checkpoint or args.model!r} holds no average of the weights, as a training with '
            '--model-ema leaves one.'
        )


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Flags of the data set, for all commands."""
    group = parser.add_argument_group('data')
    group.add_argument(
        '--dataset', metavar='NAME', help='demo, coco, voc, gkgnet, csv, or hfds/..., hfids/..., wds/... of timm'
    )
    group.add_argument('--data-dir', metavar='DIR', help='folder of the data set, not needed for demo')
    group.add_argument('--class-map', metavar='FILE', help='class names, one on each line, where annotations have none')
    group.add_argument('--num-classes', type=int, metavar='N', help='for data sets of timm that name no classes')
    group.add_argument('--drop-unlabelled', action='store_true', help='coco: leave out images without annotations')
    group.add_argument('--input-key', metavar='KEY', help='field of the image in data sets of timm')
    group.add_argument('--target-key', metavar='KEY', help='field of the labels in data sets of timm')
    group.add_argument('--target-format', choices=('indices', 'multihot'), help='of the labels in data sets of timm')
    group.add_argument(
        '-j', '--workers', type=int, default=min(4, os.cpu_count() or 1), metavar='N', help='processes that load images'
    )


def add_run_args(parser: argparse.ArgumentParser) -> None:
    """Flags of how a model runs over images."""
    group = parser.add_argument_group('device')
    group.add_argument(
        '--on-bad-image', choices=('error', 'skip'), default='error', help='stop at an unreadable image, or drop it'
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    group.add_argument('--device', default=device, metavar='NAME', help='cpu, cuda, cuda:1, mps, ...')
    group.add_argument('--amp', action=argparse.BooleanOptionalAction, default=None, help='automatic mixed precision')
    group.add_argument('--amp-dtype', choices=('bfloat16', 'float16'), help='(default: bfloat16)')
    group.add_argument('--channels-last', action='store_true', help='memory layout')


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='train_multilabel.py',
        description='Train a multi-label model. Flags have the names of timm. Without --dataset and --config: the '
        'config demo, a small model on a data set that is drawn on first use.',
    )

    def flag(group: argparse._ArgumentGroup, *names: str, help: str = '', **kwargs: Any) -> None:
        if kwargs.get('default') not in (None, False) and 'default' not in help:
            help += ' (default: %(default)s)'
        group.add_argument(*names, help=help.strip(), **kwargs)

    def switch(group: argparse._ArgumentGroup, *names: str, help: str = '') -> None:
        group.add_argument(*names, action='store_true', help=help)

    parser.add_argument(
        '-c',
        '--config',
        metavar='FILE',
        help='YAML with flags, or the name of a packaged one: ' + ', '.join(_configs()),
    )
    add_data_args(parser)
    group = parser.add_argument_group('splits')
    flag(group, '--train-split', metavar='NAME', help='name, or path of an annotation file')
    flag(group, '--val-split', metavar='NAME', help='the same of evaluation')
    flag(group, '--train-images', metavar='DIR', help='folder of the images, where the split does not say')
    flag(group, '--val-images', metavar='DIR', help='the same of evaluation')
    flag(group, '--train-num-samples', type=int, metavar='N', help='length of a stream')
    flag(group, '--val-num-samples', type=int, metavar='N', help='the same of evaluation')
    flag(
        group,
        '--unknown-labels',
        choices=('ignore', 'positive', 'negative'),
        help='labels -1 in training: unknown, or difficult ones of voc (default: positive for voc, else ignore)',
    )

    group = parser.add_argument_group('model')
    flag(group, '--model', default='gkgnet_224', metavar='NAME', help='any timm model')
    switch(group, '--pretrained', help='start from the pretrained weights of its tag')
    flag(group, '--pretrained-path', metavar='FILE', help='start from this file: Pyramid ViG, GKGNet, or a checkpoint')
    switch(
        group,
        '--init-labels-by-name',
        help='classes that the pretrained weights know by name keep their label nodes and score rows',
    )
    flag(
        group,
        '--pos-embed-init',
        choices=('resample', 'zero'),
        default='resample',
        help='position embedding where the pretrained weights are of another image size',
    )
    flag(group, '--img-size', type=int, metavar='N', help='image side in pixels (default: that of the model)')
    flag(group, '--drop', type=float, metavar='RATE', help='dropout before the classifier')
    flag(group, '--drop-path', type=float, metavar='RATE', help='stochastic depth')
    flag(group, '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE', help='default none')
    switch(group, '--grad-checkpointing', help='less memory, more time')
    flag(group, '--torchcompile', nargs='?', const='inductor', metavar='BACKEND', help='compile the model')
    switch(group, '--sync-bn', help='batch statistics over all processes')
    flag(group, '--dist-bn', choices=('reduce', 'broadcast', ''), default='reduce', help='running statistics per epoch')
    add_run_args(parser)

    group = parser.add_argument_group('optimisation')
    flag(group, '-b', '--batch-size', type=int, default=16, metavar='N', help='images of a step and process')
    flag(group, '-vb', '--validation-batch-size', type=int, metavar='N', help='(default: batch size)')
    flag(group, '--grad-accum-steps', type=int, default=1, metavar='N', help='batches of an update')
    flag(group, '--opt', default='adamw', metavar='NAME', help='any timm optimizer')
    flag(group, '--opt-eps', type=float, metavar='EPS')
    flag(group, '--opt-betas', type=float, nargs=2, metavar='BETA')
    flag(group, '--opt-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE', help='default none')
    flag(group, '--lr', type=float, default=1e-4, help='learning rate, whatever the batch size')
    flag(group, '--weight-decay', type=float, default=0.05, help='not for norms and biases')
    flag(group, '--momentum', type=float, default=0.9, help='for optimizers that have one')
    flag(group, '--layer-decay', type=float, metavar='RATE', help='layer-wise decay of the learning rate')
    flag(group, '--clip-grad', type=float, default=5.0, metavar='NORM', help='largest gradient, 0 for any')
    flag(group, '--clip-mode', choices=('norm', 'value', 'agc'), default='norm')
    flag(group, '--max-bad-steps', type=int, default=10, metavar='N', help='updates of an epoch with a loss not finite')

    group = parser.add_argument_group('schedule')
    flag(group, '--epochs', type=int, default=30, metavar='N')
    flag(group, '--sched', choices=SCHEDULES, default='cosine')
    group.add_argument(
        '--sched-on-updates',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='step per update (default: true)',
    )
    flag(group, '--warmup-epochs', type=int, default=1, metavar='N')
    flag(group, '--warmup-lr', type=float, default=1e-7, help='at the first update')
    flag(group, '--min-lr', type=float, default=0.0)
    flag(group, '--decay-milestones', type=int, nargs='+', default=[10, 50], metavar='N', help='multistep: epochs that '
         'start at a lower rate')  # fmt: skip
    flag(group, '--decay-epochs', type=float, metavar='N', help='step: epochs of a rate; wsd, rsqrt: of the decay')
    flag(group, '--decay-rate', type=float, default=0.1, help='step, multistep: factor; poly: power')
    flag(group, '--cooldown-epochs', type=int, default=0, metavar='N', help='at the lowest rate')

    group = parser.add_argument_group('loss')
    flag(group, '--loss', choices=LOSSES, help='(default: gkgnet for the models gkgnet*, else bce)')
    flag(group, '--smoothing', type=float, default=0.0, metavar='S', help='labels become S / 2 and 1 - S / 2')
    flag(group, '--loss-class-weight', metavar='W', help='bce, asl: number, list, file, inv_freq or effective_num')
    flag(group, '--loss-pos-weight', metavar='W', help='bce, asl: number, list, file or neg_pos')
    flag(group, '--loss-weight-power', type=float, default=1.0, help='of neg_pos and inv_freq')
    flag(group, '--loss-weight-beta', type=float, default=0.999, help='of effective_num')
    flag(group, '--loss-weight-max', type=float, help='largest weight')
    flag(group, '--class-stats', metavar='FILE', help='json with pos_counts and num_samples, of a stream')
    switch(group, '--bce-sum', help='sum over classes')
    flag(group, '--asl-gamma-pos', type=float, default=1.0)
    flag(group, '--asl-gamma-neg', type=float, default=4.0)
    flag(group, '--asl-clip', type=float, default=0.05)
    flag(group, '--asl-reduction', choices=('batchmean', 'sum', 'mean'), default='batchmean')
    flag(group, '--poly-epsilon', type=float, default=2.0)
    flag(group, '--poly-gamma', type=float, default=0.0)
    flag(group, '--poly-alpha', type=float)
    flag(group, '--twoway-tp', type=float, default=4.0)
    flag(group, '--twoway-tn', type=float, default=1.0)
    flag(group, '--db-neg-scale', type=float, default=2.0)
    flag(group, '--db-init-bias', type=float, default=0.05)
    flag(group, '--db-focal-gamma', type=float, default=2.0)

    group = parser.add_argument_group('augmentation')
    switch(group, '--no-aug', help='none at all')
    flag(group, '--cropmix', type=float, default=0.0, metavar='P', help='probability, in place of random crops')
    flag(group, '--train-crop-mode', choices=('rrc', 'rkrc', 'rkrr'), help='(default: rrc)')
    flag(group, '--scale', type=float, nargs=2, default=[0.08, 1.0], metavar='PCT', help='area of random crops')
    flag(group, '--ratio', type=float, nargs=2, default=[3 / 4, 4 / 3], metavar='RATIO', help='aspect of random crops')
    flag(group, '--train-interpolation', default='random', metavar='NAME', help='random, bilinear, bicubic')
    flag(group, '--hflip', type=float, default=0.5, metavar='P')
    flag(group, '--vflip', type=float, default=0.0, metavar='P')
    flag(group, '--color-jitter', type=float, default=0.4, metavar='PCT')
    flag(group, '--aa', metavar='NAME', help='trivial, or a policy of timm such as rand-m9-mstd0.5, without jitter')
    flag(group, '--reprob', type=float, default=0.0, metavar='P', help='random erasing, with noise')
    flag(group, '--mixup', type=float, default=0.0, metavar='ALPHA')
    flag(group, '--cutmix', type=float, default=0.0, metavar='ALPHA')
    flag(group, '--mixup-prob', type=float, default=1.0, metavar='P', help='of either')
    flag(group, '--mixup-switch-prob', type=float, default=0.5, metavar='P', help='of cutmix where both are on')
    flag(group, '--mixup-mode', choices=('batch', 'pair', 'elem'), default='batch')
    flag(group, '--mixup-off-epoch', type=int, default=0, metavar='N', help='from which on images are not mixed')
    flag(group, '--oversample-thr', type=float, metavar='F', help='repeat images of classes that fewer images have')
    flag(group, '--aug-repeats', type=float, default=0, metavar='N', help='augmentations of an image in an epoch')

    group = parser.add_argument_group('average of the weights')
    switch(group, '--model-ema', help='evaluate and keep a moving average as well')
    flag(group, '--model-ema-decay', type=float, default=0.9998, metavar='RATE')
    switch(group, '--model-ema-warmup', help='lower decay at first')
    switch(group, '--model-ema-force-cpu', help='saves memory, without evaluation')

    group = parser.add_argument_group('output')
    flag(group, '--output', default='output/train', metavar='DIR', help='folder of all runs')
    flag(group, '--experiment', metavar='NAME', help='folder of this run (default: time, model, size)')
    flag(
        group,
        '--resume',
        metavar='FILE',
        help='continue from this checkpoint, or with auto from last.pth.tar of the experiment if there is one; its '
        'flags hold unless given anew',
    )
    flag(group, '--eval-metric', default='mAP', metavar='NAME', help='that picks the best checkpoint')
    flag(group, '--log-interval', type=int, default=50, metavar='N', help='updates between lines')
    flag(group, '--checkpoint-hist', type=int, default=3, metavar='N', help='epoch checkpoints that are kept')
    flag(group, '--seed', type=int, default=42)
    switch(group, '--log-wandb', help='log to Weights & Biases')
    flag(group, '--wandb-project', metavar='NAME')
    return parser


def _configs() -> List[str]:
    folder = resources.files('gkgnet_timm') / 'configs'
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith('.yaml'))


def _convert(action: argparse.Action, value: Any) -> Any:
    """A value of a config as the flag would have it, a ValueError if it can't."""
    if value is None:
        if action.default is not None:
            raise ValueError
        return None
    if isinstance(action, ParseKwargs):
        return dict(value)
    if isinstance(action, (argparse._StoreTrueAction, argparse.BooleanOptionalAction)):
        if not isinstance(value, bool):
            raise ValueError
        return value
    if action.nargs == '?' and isinstance(value, bool):
        return action.const if value else None
    many = action.nargs in ('+', 2)
    if isinstance(value, list) and not many and action.type is None:  # such as weights
        value = ','.join(map(str, value))
    values = [(action.type or str)(str(item)) for item in (value if many else [value])]
    if action.choices and not set(values) <= set(action.choices) or action.nargs == 2 and len(values) != 2:
        raise ValueError
    return values if many else values[0]


def _expected(action: argparse.Action) -> str:
    if action.choices:
        return 'one of ' + ', '.join(map(repr, action.choices))
    if isinstance(action, ParseKwargs):
        return 'a mapping'
    kind = 'true or false' if action.nargs == 0 else action.type.__name__ if action.type else 'text'
    return f'a list of {kind}' if action.nargs in ('+', 2) else kind


def _read_config(name: str, actions: Dict[str, argparse.Action]) -> Dict[str, Any]:
    """Flags of a config: a file, or else a packaged one."""
    path = Path(name)
    if not path.is_file():
        if name not in _configs():
            raise FileNotFoundError(f'Config {name!r} is neither a file nor one of {", ".join(_configs())}.')
        path = resources.files('gkgnet_timm') / 'configs' / f'{name}.yaml'
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'Config {name!r} is not YAML: {" ".join(str(error).split())}.') from error
    if not isinstance(content, dict):
        raise ValueError(f'Config {name!r} holds {type(content).__name__}, expected flags and values.')
    values = {}
    for key, value in content.items():
        key = str(key).replace('-', '_')
        if key not in actions:
            similar = difflib.get_close_matches(key, actions, n=1)
            raise ValueError(f'Config {name!r}: unknown flag {key!r}' + (f', {similar[0]!r}?' if similar else '.'))
        try:
            values[key] = _convert(actions[key], value)
        except (ValueError, TypeError):
            raise ValueError(f'Config {name!r}: {key} is {value!r}, expected {_expected(actions[key])}.') from None
    return values


def read_checkpoint_args(path: str) -> Dict[str, Any]:
    """Flags that a checkpoint of train_multilabel.py was trained with, its `class_names`, and whether it `has_ema`, the
    average of the weights; empty for others.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint.
    """
    if not Path(path).is_file():
        last = Path(path, 'last.pth.tar')
        raise FileNotFoundError(
            f'Checkpoint {str(path)!r} ' + (f'is a folder, give {last}.' if last.is_file() else 'does not exist.')
        )
    if str(path).endswith('.safetensors'):
        return {}
    try:
        with published_globals():
            checkpoint = load_checkpoint_metadata(path)
    except Exception as error:  # whatever torch raises for a file of another kind
        problem = find_problem(path) or 'no readable checkpoint'
        raise ValueError(
            f'{str(path)!r} is {problem}. If it is of a training, take another one of its folder.'
        ) from error
    args = checkpoint.get('args') if isinstance(checkpoint, dict) else None
    return dict(vars(args), has_ema='state_dict_ema' in checkpoint) if hasattr(args, 'class_names') else {}


def flag_values(args: argparse.Namespace) -> Dict[str, Any]:
    """The flags of a run as a config that repeats it."""
    return {
        action.dest: getattr(args, action.dest)
        for action in _create_parser()._actions
        if action.dest not in ('help', 'config', 'resume')
    }


def data_kwargs(args: argparse.Namespace) -> Dict[str, Any]:
    """Arguments of `create_dataset` that follow from the flags of `add_data_args`."""
    kwargs = dict(
        name=args.dataset,
        root=args.data_dir,
        class_map=args.class_map,
        drop_unlabelled=args.drop_unlabelled,
        num_classes=args.num_classes,
        target_format=args.target_format,
    )
    if '/' in args.dataset:
        kwargs.update(input_key=args.input_key, target_key=args.target_key)
    return kwargs


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Flags of the command line, over those of the config, over those of the checkpoint to resume.

    Raises:
        FileNotFoundError: If a config or checkpoint does not exist.
        ValueError: If a config is malformed or flags contradict each other.
    """
    parser = _create_parser()
    actions = {action.dest: action for action in parser._actions if action.dest not in ('help', 'config', 'resume')}
    given = parser.parse_args(argv)
    resume = given.resume
    config = given.config or ('demo' if given.dataset in (None, 'demo') and resume in (None, 'auto') else None)
    values = _read_config(config, actions) if config else {}
    parser.set_defaults(**values)
    if resume == 'auto':
        given = parser.parse_args(argv)
        if not given.experiment:
            raise ValueError('--resume auto needs --experiment, whose last checkpoint it continues from.')
        last = Path(given.output, given.experiment, 'last.pth.tar')
        resume = str(last) if last.is_file() else None
    if resume:
        trained = read_checkpoint_args(resume)
        if not trained:
            raise ValueError(
                f'{resume!r} is not a checkpoint of train_multilabel.py. To start from its weights give '
                '--pretrained-path.'
            )
        parser.set_defaults(**{key: value for key, value in trained.items() if key in actions and key != 'device'})
        if given.config:
            parser.set_defaults(**values)
        if given.dataset not in (None, trained['dataset']):
            parser.set_defaults(**{f'{part}_{what}': None for part in ('train', 'val') for what in ('split', 'images')})
        folder = Path(resume).parent
        parser.set_defaults(output=str(folder.parent), experiment=folder.name)
    args = parser.parse_args(argv)
    args.resume = resume
    if resume and Path(args.output, args.experiment) != folder:
        raise ValueError(
            f'--resume goes on in the folder of its checkpoint {resume!r}: leave out --output, --experiment.'
        )

    if args.dataset is None:
        raise ValueError(f'Neither --dataset nor config {config!r} says which data set to train on.')
    if args.dataset != 'demo' and not args.data_dir and not args.dataset.startswith('hf'):
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    splits, images = DEFAULT_SPLITS.get(args.dataset, (None, None)), DEFAULT_IMAGES.get(args.dataset, (None, None))
    for i, part in enumerate(('train', 'val')):
        if not getattr(args, f'{part}_split'):
            setattr(args, f'{part}_split', splits[i])
            if not getattr(args, f'{part}_images'):
                setattr(args, f'{part}_images', images[i])
        if not getattr(args, f'{part}_split'):
            raise ValueError(f'--dataset {args.dataset} needs --{part}-split.')
    if args.init_labels_by_name and not (args.pretrained or args.pretrained_path or resume):
        raise ValueError('--init-labels-by-name needs pretrained weights: give --pretrained or --pretrained-path FILE.')
    args.unknown_labels = args.unknown_labels or ('positive' if args.dataset == 'voc' else 'ignore')
    args.loss = args.loss or ('gkgnet' if safe_model_name(args.model).startswith('gkgnet') else 'bce')
    if args.validation_batch_size is None:
        args.validation_batch_size = args.batch_size
    args.amp, args.amp_dtype = bool(args.amp), args.amp_dtype or 'bfloat16'
    check_ranges(args)
    if not 0 < args.scale[0] <= args.scale[1] or not 0 < args.ratio[0] <= args.ratio[1]:
        raise ValueError(f'--scale and --ratio are from small to large, got {args.scale} and {args.ratio}.')
    if args.torchcompile and args.torchcompile not in torch.compiler.list_backends(exclude_tags=()):
        backends = ', '.join(torch.compiler.list_backends())
        raise ValueError(f'--torchcompile {args.torchcompile!r} is not one of {backends}.')
    for name in ('data_dir', 'class_map', 'class_stats', 'pretrained_path'):  # for who goes on from another folder
        if getattr(args, name):
            setattr(args, name, os.path.abspath(getattr(args, name)))
    if args.experiment is None:
        size = f'-{args.img_size}' if args.img_size else ''
        args.experiment = f'{datetime.now():%Y%m%d-%H%M%S}-{safe_model_name(args.model)}{size}'
    return args
