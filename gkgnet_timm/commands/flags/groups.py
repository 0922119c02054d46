"""Flags that several commands share."""

import argparse
import ast
import difflib
import os
import re
import sys
from typing import Any, List, NoReturn, Optional, Sequence

__all__ = ['FlagParser', 'KeyValues', 'Switch', 'add_data_flags', 'add_device_flags', 'add_ema_flag']
__all__ += ['add_evaluation_flags', 'add_model_flags', 'add_reading_flags', 'add_threshold_flag', 'add_where_flag']
__all__ += ['add_workers_flag']


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are a ValueError of one line, as all other errors of a command."""

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch(r'argument (.+): ignored explicit argument (.+)', message):
            names = found[1].replace('/', ', ')  # of a switch
            message = f'{names}: expected {"one of these" if ", " in names else "no value"}, got {found[2]}'
        raise ValueError(f'{message}{"" if message.endswith("?") else "."} See --help.')

    def parse_known_args(self, args: Optional[Sequence[str]] = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        for i in range(len(args) - 1, 0, -1):
            if args[i - 1 : i + 1] == ['--amp', 'auto']:
                args[i - 1 : i + 1] = ['--amp=auto']
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Optional[Sequence[str]] = None, namespace: Any = None) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = next((argument for argument in unknown if argument.startswith('-')), unknown[0])
            name = flag.partition('=')[0]
            similar = difflib.get_close_matches(name, self._option_string_actions, n=1)
            self.error(f'unknown flag {name!r}, {similar[0]!r}?' if similar else f'unknown: {" ".join(unknown)!r}')
        return parsed


class Switch(argparse.BooleanOptionalAction):
    """--NAME and --no-NAME, which undoes the switch of a config or checkpoint; of --no-NAME the opposite is --NAME."""

    def __init__(self, option_strings: List[str], dest: str, help: str = '', **kwargs: Any):
        super().__init__([name for name in option_strings if not name.startswith('--no-')], dest, **kwargs)
        self.help: Optional[str] = help
        self.default: Any = False
        negated = [name for name in option_strings if name.startswith('--no-')]
        self.option_strings: Sequence[str] = [*self.option_strings, *negated, *(f'--{name[5:]}' for name in negated)]
        self._means_true = {*option_strings}

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Optional[str] = None) -> None:
        setattr(namespace, self.dest, option_string in self._means_true)


class Amp(argparse.BooleanOptionalAction):
    """--amp, --no-amp and --amp auto. A word of another kind after --amp is no value of it: it may be an image."""

    def __init__(self, option_strings: List[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, dest, **kwargs)
        self.option_strings.append('--amp=auto')

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Optional[str] = None) -> None:
        setattr(namespace, self.dest, 'auto' if option_string == '--amp=auto' else option_string == '--amp')


class KeyValues(argparse.Action):
    """KEY=VALUE pairs as a dict, values as Python literals where they are some, as timm reads them.

    `true` and `false` are those of Python in any case: the text 'false' would be taken for true.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: List[str], option: Any = None) -> None:
        pairs = {}
        for item in values:
            key, sign, value = item.partition('=')
            if not sign:
                parser.error(f'{option}: expected KEY=VALUE, got {item!r}')
            try:
                is_bool = value.lower() in ('true', 'false')
                pairs[key] = ast.literal_eval(value.capitalize() if is_bool else value)
            except (ValueError, SyntaxError):
                pairs[key] = value
        setattr(namespace, self.dest, pairs)


def add_workers_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        '-j',
        '--workers',
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar='N',
        help='processes that load images (default: %(default)s)',
    )


def add_reading_flags(group: argparse._ActionsContainer, max_pixels: int = 178956970) -> None:
    """Flags of how pixels are read: arguments of `gkgnet_timm.data.Decoder`. Pillow has a limit of its own."""
    group.add_argument(
        '--bit-depth',
        type=int,
        metavar='N',
        help='2^N - 1 is white in files of more than 8 bits (default: as in training, else all bits of the file, or 0 '
        'to 1 in floating point)',
    )
    group.add_argument(
        '--background', metavar='COLOUR', help='under transparent pixels (default: as in training, else white)'
    )
    group.add_argument(
        '--max-pixels', type=int, metavar='N', help=f'largest image that is read (default: {max_pixels})'
    )


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of a data set: arguments of `gkgnet_timm.data.open_split`."""
    group = parser.add_argument_group('data')
    group.add_argument(
        '--dataset',
        metavar='NAME',
        help='demo, coco, voc, gkgnet, csv, or hfds/..., hfids/..., wds/... of timm (default: by the suffix of the '
        'split, .csv, .tsv, .json or .data)',
    )
    group.add_argument('--data-dir', metavar='DIR', help='folder of the data set, not needed for demo')
    group.add_argument('--class-map', metavar='FILE', help='class names in order, one on each line')
    group.add_argument('--num-classes', type=int, metavar='N', help='for data sets of timm that name no classes')
    group.add_argument('--drop-unlabelled', action=Switch, help='leave out images without a label')
    group.add_argument('--input-key', metavar='KEY', help='field of the image in data sets of timm')
    group.add_argument('--target-key', metavar='KEY', help='field of the labels in data sets of timm')
    group.add_argument('--target-format', choices=('indices', 'multihot'), help='of the labels in data sets of timm')
    add_reading_flags(group)
    add_workers_flag(group)
    group.add_argument(
        '--unknown-labels',
        choices=('ignore', 'positive', 'negative'),
        help='what to do about labels of -1: unknown ones, or difficult ones of voc (default: ignore; positive in '
        'training on voc); if given, -1 and empty cells of a table are unknown, whatever else it has',
    )
    group = parser.add_argument_group('tables (--dataset csv)')
    group.add_argument('--image-column', metavar='NAME', help='column of the files (default: the one that has some)')
    group.add_argument(
        '--label-columns', '--label-column', metavar='A,B', help='columns of the labels (default: all others)'
    )
    group.add_argument(
        '--label-separator', metavar='TEXT', help="between names in a cell, '' for none (default: |, else ;, else ,)"
    )
    group.add_argument('--ignore-case', action=Switch, help='names that differ in case are of one class')
    group.add_argument(
        '--table-format', choices=('long', 'wide'), help='a row for each image and label, or for each image'
    )
    group.add_argument(
        '--unlisted',
        choices=('unknown', 'absent'),
        help='long: what a label without a row is (default: unknown if a confidence is 0, else absent)',
    )
    group.add_argument('--label-names', metavar='FILE', help='table of id and name, where labels are ids')
    group.add_argument('--encoding', metavar='NAME', help='of the text (default: utf-8, or by its byte order mark)')
    group.add_argument(
        '--group-column',
        metavar='NAME',
        help='column of groups, such as patients, that split and --val-fraction keep together',
    )


def add_model_flags(parser: argparse.ArgumentParser, model: str, checkpoint: str) -> None:
    """Flags of a model that labels images.

    Args:
        parser: The parser.
        model: Which models there may be.
        checkpoint: Which weights.
    """
    group = parser.add_argument_group('model')
    group.add_argument('--checkpoint', '--pretrained-path', metavar='FILE', help=checkpoint)
    add_ema_flag(group)
    group.add_argument('--model', metavar='NAME', help=model)
    group.add_argument('--pretrained', action='store_true', help='take the pretrained weights of --model')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    group.add_argument('--class-map', metavar='FILE', help='class names, one on each line, for weights without them')


def add_threshold_flag(group: argparse._ActionsContainer, exception: str = '') -> None:
    group.add_argument(
        '--threshold',
        metavar='T',
        help='lowest score of a label, or a file of validate.py --calibrate with one for each class (default: that of '
        f'the weights if convert has put thresholds beside them, else 0.5{exception})',
    )


def add_where_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--where', metavar='COLUMN=VALUE', help='csv: rows of the split')


def add_device_flags(
    parser: argparse.ArgumentParser, stops: bool = True, amp: str = 'automatic mixed precision'
) -> None:
    """Flags of how a model runs over images, and whether it stops at one that cannot be read; `amp` is a help text."""
    group = parser.add_argument_group('device')
    if stops:
        group.add_argument(
            '--on-bad-image', choices=('error', 'skip'), default='error', help='stop at an unreadable image, or skip it'
        )
    group.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1, mps, ... (default: cuda if available)')
    group.add_argument(
        '--amp', action=Amp, default=None, help=f'{amp}; auto: where half precision is faster by a third'
    )
    group.add_argument('--amp-dtype', choices=('bfloat16', 'float16'), help='(default: bfloat16)')
    group.add_argument('--channels-last', action=Switch, help='memory layout')


def add_ema_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        '--use-ema',
        action=argparse.BooleanOptionalAction,
        default=None,
        help='take the averaged weights of the checkpoint, or the raw ones (default: those with the better metric in '
        'training)',
    )


def add_evaluation_flags(parser: argparse.ArgumentParser, takes_several: bool) -> None:
    """Flags of a model, or of several, and the split it is evaluated on."""
    folder, wildcards = ', or a folder of them', '; several by wildcards or a text file of names'
    folder, wildcards = (folder, wildcards) if takes_several else ('', '')
    add_data_flags(parser)
    add_where_flag(parser)
    parser.add_argument('--split', metavar='NAME', help='split to evaluate on')
    parser.add_argument('--images', metavar='DIR', help='folder of the images, if the split does not say')
    parser.add_argument('--num-samples', type=int, metavar='N', help='length of a stream')
    add_device_flags(parser)
    group = parser.add_argument_group('model')
    group.add_argument('--checkpoint', metavar='FILE', help=f'checkpoint of train_multilabel.py{folder}')
    add_ema_flag(group)
    group.add_argument('--model', metavar='NAME', help=f'timm model{wildcards}')
    group.add_argument('--pretrained', action='store_true', help='evaluate pretrained weights')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    group.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    group = parser.add_argument_group('preprocessing', 'As the model requires, unless given.')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    group.add_argument('--crop-pct', type=float, metavar='PCT', help='share of the resized image that is kept')
    group.add_argument('--crop-mode', choices=('squash', 'border', 'center'))
    group.add_argument('--interpolation', choices=('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming'))
    group.add_argument('--mean', type=float, nargs='+', metavar='MEAN')
    group.add_argument('--std', type=float, nargs='+', metavar='STD')
    group.add_argument('--flip', action='store_true', help='average the logits of each image and its mirror image')
    parser.set_defaults(amp_dtype='bfloat16')
