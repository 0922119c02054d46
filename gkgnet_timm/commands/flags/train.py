"""Flags of `train`, with the names of timm's training script: the fields of `TrainConfig`."""

import argparse
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

from ...runtime import command_line
from ...training.config import TrainConfig
from .config import packaged_configs
from .groups import FlagParser, KeyValues, Switch, add_data_flags, add_device_flags


def _value_type(hint: Any) -> type:
    """`int` for int, Optional[int] and Optional[List[int]]."""
    return _value_type(get_args(hint)[0]) if get_args(hint) else hint


def _add_flag(group: argparse._ActionsContainer, item: Field) -> None:
    """Add the flag of a field that `option` made."""
    default = item.default if item.default_factory is MISSING else item.default_factory()
    options = dict(item.metadata['flag'])
    if isinstance(default, dict):
        options.update(nargs='*', action=KeyValues, metavar='KEY=VALUE')
    elif isinstance(default, bool):
        options.update(action=argparse.BooleanOptionalAction if default else Switch)
    else:
        options.update(type=_value_type(item.type))
    action = group.add_argument(*item.metadata['names'], f'--{item.name.replace("_", "-")}', **options)
    action.default = default
    if default is not None and default is not False and default != {} and 'default' not in action.help:
        action.help = f'{action.help} (default: %(default)s)'.strip()


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('train'),
        usage='%(prog)s [-h] [-c FILE] [--FLAG VALUE ...]',
        description='Train a multi-label model. Flags have the names of timm. Without data or --config: the config '
        'demo, a small model on a data set that is drawn on first use.',
    )
    parser.add_argument(
        '-c',
        '--config',
        metavar='FILE',
        help='YAML with flags, or the name of a packaged one: ' + ', '.join(packaged_configs()),
    )
    add_data_flags(parser)
    for item in fields(TrainConfig):
        if item.name == 'on_bad_image':
            add_device_flags(parser)
        if item.metadata.get('group'):
            group = parser.add_argument_group(item.metadata['group'])
        if 'flag' in item.metadata:
            _add_flag(group, item)
        if item.name == 'experiment':
            group.add_argument(
                '--resume',
                metavar='FILE',
                help='continue from this checkpoint, or with auto from last.pth.tar of the experiment if there is one; '
                'its flags hold unless given anew',
            )
    return parser
