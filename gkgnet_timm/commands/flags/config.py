"""Flags in YAML files."""

import argparse
import difflib
from dataclasses import fields
from importlib import resources
from math import inf
from pathlib import Path
from typing import Any, Dict, List

import yaml

from ...runtime import one_line, read_bytes
from ...training.config import TrainConfig

__all__ = ['packaged_configs', 'read_config']

CONFIGS = resources.files('gkgnet_timm') / 'configs'
LISTS = {item.name for item in fields(TrainConfig) if 'List' in str(item.type)}  # flags of several values
_LARGEST = 1 << 18  # bytes of a file, a few seconds
_MOST_VALUES = 50_000


def packaged_configs() -> List[str]:
    """Names of the configs that come with the package."""
    return sorted(Path(entry.name).stem for entry in CONFIGS.iterdir() if entry.name.endswith('.yaml'))


def _as_arguments(name: str, value: Any) -> List[str]:
    """A value of a config as the command line would have it."""
    flag = f'--{name.replace("_", "-")}'
    if value is True:
        return [flag]
    if isinstance(value, list) and name in LISTS:
        return [flag, *map(str, value)]
    if isinstance(value, list):  # such as the weights of classes
        value = ','.join(map(str, value))
    return [f'{flag}={value}']


def _size(node: yaml.Node, sizes: Dict[int, float]) -> float:
    """Number of values in a node if its references were written out."""
    if id(node) not in sizes:
        sizes[id(node)] = inf  # of a node that refers to itself
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def _load(data: bytes) -> Any:
    loader = yaml.SafeLoader(data)
    node = loader.get_single_node()
    if node is None:
        return None
    if _size(node, {}) > _MOST_VALUES:  # loading would write some references out
        raise ValueError(f'it has more than {_MOST_VALUES:,} values, or refers to itself')
    return loader.construct_document(node)


def read_config(name: str, parser: argparse.ArgumentParser) -> Dict[str, Any]:
    """Flags of a config, which is a file or else a packaged one. The parser checks them as those of a command line.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it is not a mapping of flags to values that they take.
    """
    path = Path(name)
    if not path.is_file():
        if name not in packaged_configs():
            raise FileNotFoundError(f'Config {name!r} is neither a file nor one of {", ".join(packaged_configs())}.')
        path = CONFIGS / f'{name}.yaml'
    data = read_bytes(path, _LARGEST)
    try:
        content = _load(data) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = 'it is nested too deep' if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(f'Config {name!r} is not YAML: {reason}.') from error
    if not isinstance(content, dict):
        raise ValueError(f'Config {name!r} holds {type(content).__name__}, expected flags and values.')
    defaults = vars(parser.parse_args([]))
    values, arguments = {}, []
    for key, value in content.items():
        key = str(key).replace('-', '_')
        if key not in defaults or key in ('config', 'resume'):
            similar = difflib.get_close_matches(key, defaults, n=1)
            raise ValueError(f'Config {name!r}: unknown flag {key!r}' + (f', {similar[0]!r}?' if similar else '.'))
        default = defaults[key]
        if isinstance(default, dict) and isinstance(value, dict):
            values[key] = value
        elif value is None or value is False:  # what no argument says
            if default is not None and (value is None or not isinstance(default, bool)):
                raise ValueError(f'Config {name!r}: {key} is {value}, expected a value such as {default!r}.')
            values[key] = None if default is None else value
        else:
            arguments += _as_arguments(key, value)
            values[key] = None
    try:
        parsed = vars(parser.parse_args(arguments))
    except ValueError as error:
        raise ValueError(f'Config {name!r}: {error}') from error
    return {key: parsed[key] if value is None else value for key, value in values.items()}
