"""TODO commands.flags.config."""

import argparse
import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Dict, List

import yaml

from timm.utils import ParseKwargs


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
