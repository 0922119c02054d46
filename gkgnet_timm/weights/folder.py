"""Read and check a folder of weights, `config.json` and `model.safetensors`, and results of `validate.py` for it."""

import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Union, get_type_hints

import torch
from safetensors.torch import load_file

import timm
from timm.models import PretrainedCfg

from ..runtime import fits, in_words, one_line, read_json
from .file import find_problem
from .model_card import METRICS
from .thresholds import check_thresholds

__all__ = ['CONFIG', 'EXPORTED', 'PROGRAMS', 'WEIGHTS', 'check_weights', 'is_export', 'read_config']
__all__ += ['read_model_config', 'read_results']

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
_PROGRAMS = ('model.onnx', 'model_fp16.onnx', 'model_int8.onnx', 'model.pt2')
PROGRAMS = (*_PROGRAMS, *(f'{name}.data' for name in _PROGRAMS))  # of an export
EXPORTED = (*PROGRAMS, 'selected_tags.csv', 'thresholds.csv', 'categories.json', 'preprocess.json', 'README.md', CONFIG)
# wider than the hints of timm's PretrainedCfg: what its own configs have
_NAMES = Union[None, str, List[str]]
_ALSO = dict(label_names=Union[None, List[str], Dict[str, str]], classifier=_NAMES, first_conv=_NAMES, url=_NAMES)
_ALSO.update(paper_ids=_NAMES, notes=_NAMES, custom_load=Union[bool, str], pool_size=Optional[List[int]])
_CHOICES = dict(crop_mode=('center', 'squash', 'border'))
_CHOICES['interpolation'] = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos', 'random')
# lowest and highest number, and how many
_LIMITS = dict.fromkeys(('input_size', 'test_input_size', 'min_input_size'), (1, 8192, 3))
_LIMITS.update(num_classes=(0, 10**6, None), mean=(-1e6, 1e6, None), std=(1e-6, 1e6, None), pool_size=(1, 8192, 2))
_LIMITS.update(crop_pct=(0.01, 10, None), test_crop_pct=(0.01, 10, None), label_offset=(0, 10**6, None))


def _check_number(value: Any, key: str) -> None:
    """Raise a ValueError for a number in arguments of a model that no model has: it would be built for hours."""
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_number(item, key)
    elif isinstance(value, (int, float)) and not abs(value) <= (1000 if re.search('depth|layers|blocks', key) else 1e6):
        raise ValueError(f'{key!r} in \'model_args\' is {value!r:.40}, larger than in any model.')


def check_config(config: Any) -> None:
    """Check what timm reads from the content of a `config.json`.

    Raises:
        ValueError: If an entry is unknown to timm, of another type, or out of range. Names the entry.
    """
    if not isinstance(config, dict):
        raise ValueError(f'it holds {type(config).__name__}, expected a mapping.')
    remedy = 'write it by python -m gkgnet_timm convert'
    if not isinstance(config.get('pretrained_cfg'), dict):
        raise ValueError(f"it has no 'pretrained_cfg', so it is not of a timm model: {remedy}.")
    if not isinstance(config.get('architecture'), str) or not timm.is_model(config['architecture']):
        raise ValueError(f'timm has no architecture {config.get("architecture")!r:.80}, see timm.list_models().')
    for key in ('training', 'converted_from', 'model_args'):
        if not isinstance(config.get(key, {}), dict):
            raise ValueError(f'{key!r} must be a mapping, is {config[key]!r:.80}.')
    cfg = dict(
        config['pretrained_cfg'], **{key: config[key] for key in ('num_classes', 'label_names') if key in config}
    )
    hints = dict(get_type_hints(PretrainedCfg), **_ALSO)
    for key, value in cfg.items():
        if key not in hints:
            raise ValueError(f"unknown entry {key!r:.80} in 'pretrained_cfg'.")
        if not fits(value, hints[key]):
            raise ValueError(f'{key!r} must be {in_words(hints[key])}, is {value!r:.80}.')
        if key in _LIMITS and value is not None:
            low, high, length = _LIMITS[key]
            numbers = [value] if isinstance(value, (int, float)) else value
            if not all(low <= number <= high for number in numbers) or length not in (None, len(numbers)):
                many = f'{length} numbers ' if length else ''
                raise ValueError(f'{key!r} must be {many}from {low} to {high}, is {value!r:.80}.')
        if value not in _CHOICES.get(key, (value,)):
            raise ValueError(f'{key!r} must be one of {", ".join(_CHOICES[key])}, is {value!r:.80}.')
    channels = cfg.get('input_size', (3,))[0]
    for key in ('mean', 'std'):
        if len(cfg.get(key, (0,))) not in (1, channels):
            raise ValueError(f'{key!r} must have {channels} numbers, is {cfg[key]!r:.80}.')
    for key, value in config.get('model_args', {}).items():
        _check_number(value, key)
    if 'thresholds' in config:
        check_thresholds(config['thresholds'], cfg.get('label_names') or (), 'it')


def is_export(folder: Union[str, Path]) -> bool:
    """Say whether a folder has exported models, rather than weights."""
    path = Path(folder, CONFIG)
    if not path.is_file() or Path(folder, WEIGHTS).is_file():
        return False
    config = read_json(path)
    return isinstance(config, dict) and isinstance(config.get('exported'), dict)


def read_config(folder: Union[str, Path]) -> Dict[str, Any]:
    """Read `config.json` of a folder of weights, as timm's `save_for_hf` and `convert` write it.

    Raises:
        FileNotFoundError: If the folder or a file in it does not exist.
        ValueError: If it is damaged, or of a model that timm does not know.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f'Folder of weights {str(folder)!r} does not exist: make one by python -m gkgnet_timm convert.'
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f'Folder {str(folder)!r} has no {name}: give one that python -m gkgnet_timm convert wrote.'
            )
    path = folder / CONFIG
    config = read_model_config(path)
    num_classes = config.get('num_classes')
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"{str(path)!r}: 'num_classes' must be at least 1, is {num_classes!r}.")
    names = config.get('label_names') or config['pretrained_cfg'].get('label_names') or ()
    if names and len(names) != num_classes:
        raise ValueError(
            f"{str(path)!r}: {len(names)} 'label_names' for {num_classes} classes: write it by python -m gkgnet_timm "
            'convert --class-order FILE.'
        )
    return config


def read_model_config(path: Union[str, Path]) -> Dict[str, Any]:
    """Read a `config.json` from which timm is to create a model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: See `check_config`. Names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'Config {str(path)!r} of a model does not exist.')
    config = read_json(Path(path))
    try:
        check_config(config)
    except ValueError as error:
        raise ValueError(f'{str(path)!r}: {error}') from error
    return config


def _is_of(result: Dict[str, Any], architecture: str) -> bool:
    """Say whether a result may be of an architecture. The name of a model on the Hub does not tell."""
    name = str(result['model'])
    if name.startswith('local-dir:'):
        path = Path(name.removeprefix('local-dir:'), CONFIG)
        config = read_json(path) if path.is_file() else {'architecture': architecture}
        return isinstance(config, dict) and config.get('architecture') == architecture
    return ':' in name or name.partition('.')[0] == architecture


def read_results(path: Union[str, Path], config: Dict[str, Any]) -> Dict[str, Any]:
    """Read the result of a model from a file of `validate.py --results-file`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or does not have exactly one result of this model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'File of results {str(path)!r} does not exist: validate.py --results-file writes it.')
    content = read_json(Path(path))
    found = content if isinstance(content, list) else [content]
    if not found or not all(isinstance(result, dict) and 'mAP' in result for result in found):
        raise ValueError(f'{str(path)!r} is not a result of validate.py --results-file: it has no mAP.')
    if not all(result.get('model') and result.get('dataset') for result in found):
        raise ValueError(f'{str(path)!r} does not name its model and data set: evaluate --checkpoint, not --scores-in.')
    ours = [result for result in found if _is_of(result, config['architecture'])]
    if not ours:
        models = ', '.join(dict.fromkeys(str(result['model']) for result in found))
        raise ValueError(f'{str(path)!r} is of model {models}, the weights are of {config["architecture"]}.')
    if len(ours) > 1:
        files = ', '.join(str(result.get('checkpoint') or result['model']) for result in ours)
        raise ValueError(
            f'{str(path)!r} has {len(ours)} results of {config["architecture"]}, give a file with one: {files}.'
        )
    result = ours[0]
    if result.get('num_classes', config['num_classes']) != config['num_classes']:
        raise ValueError(
            f'{str(path)!r} is of {result["num_classes"]} classes, the weights of {config["num_classes"]}.'
        )
    if not isinstance(result.get('images'), int) or result['images'] < 1:
        raise ValueError(f"{str(path)!r}: 'images' must be at least 1, is {result.get('images')!r}.")
    for name in METRICS:
        value = result.get(name, 0)
        if not isinstance(value, (int, float)) or not 0 <= value <= 100:  # nan fails too
            raise ValueError(f'{str(path)!r}: {name!r} must be a percentage, is {value!r}.')
    kind = 'ema' if (config.get('converted_from') or {}).get('ema') else 'raw'
    if 'converted_from' in config and result.get(f'mAP_{kind}', result['mAP']) != result['mAP']:
        flag = '--use-ema' if kind == 'ema' else '--no-use-ema'
        raise ValueError(f'{str(path)!r} is not of the {kind} weights, as the folder is: run validate.py with {flag}.')
    return result


def check_weights(folder: Path) -> None:
    """Check that a folder loads as its users will load it.

    Raises:
        ValueError: If the weights are broken, or not those of the model in `config.json`.
    """
    path = folder / WEIGHTS
    if problem := find_problem(path):
        raise ValueError(f'Weights {str(path)!r} are {problem}.')
    stored = load_file(path)
    try:
        loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).state_dict()
    # tensors that do not fit, unknown arguments of the model
    except (RuntimeError, TypeError, KeyError, AttributeError, AssertionError, ValueError) as error:
        raise ValueError(
            f'Folder {str(folder)!r}: {WEIGHTS} does not load as {CONFIG} says: {one_line(error)}'
        ) from error
    # models have filters that rename, drop or add tensors, but here all have to be as in the model
    names = [name for name in loaded if name not in stored] + [name for name in stored if name not in loaded]
    names += [
        name for name in loaded if name in stored and not torch.equal(loaded[name], stored[name].to(loaded[name]))
    ]
    if names:
        raise ValueError(
            f'Weights {str(path)!r} are not those of {CONFIG}: {len(names)} tensors differ, such as {names[0]!r}.'
        )
