"""Load a program of torch.export without running code that is in the file.

PyTorch unpickles what such an archive asks for, evaluates its expressions and calls whatever function a node names. So
an archive is read first, and has to consist of numbers, operators of PyTorch and sums of sizes alone.
"""

import json
import os
import re
import zipfile
from collections import Counter
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Set

import torch

__all__ = ['load_pt2']

_FILES = re.compile(
    r'data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|'
    r'models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version|\.data/\w+'
)
_PLACES = re.compile(r'(weight|tensor)_\d+')
_TARGETS = re.compile(
    r'torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|'
    r'torch\.sym_(min|max|not|ite|sum|int|float)|math\.(ceil|floor|trunc)|'
    r'_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|le|lt|ge|gt|and_|or_)'
)
_GUARD = {'L', 'images', 'size', 'torch', 'sym_max', 'sym_min', 'and', 'or', 'not'}
_NAMES = {
    'FloorDiv',
    'CeilDiv',
    'CleanDiv',
    'Mod',
    'PythonMod',
    'Max',
    'Min',
    'Eq',
    'Ne',
    'Le',
    'Lt',
    'Ge',
    'Gt',
    'True',
}
_NAMES |= {
    'False',
    'And',
    'Or',
    'Not',
    'int_oo',
    'oo',
    'Integer',
    'Rational',
    'Symbol',
    'positive',
    'integer',
    'nonnegative',
}
_NAMES |= {'Add', 'Mul', 'Pow'}
_LARGEST = 1 << 28  # bytes of text


def _is_arithmetic(text: str, names: Set[str], others: str) -> bool:
    """Whether an expression is of numbers, sizes such as s12, these names, and no other signs than these."""
    known = all(name in names or re.fullmatch(r'[suz]\d+', name) for name in re.findall(r'[^\W\d]\w*', text))
    return known and not re.search(rf'[^\w\s+\-*/(),<>={others}]', text)


def _check_text(key: str, text: str) -> None:
    if key == 'target' and not _TARGETS.fullmatch(text):
        raise ValueError(f'it calls {text!r:.80}, which was not run')
    if key == 'expr_str' and not _is_arithmetic(text, _NAMES, "&|~'"):
        raise ValueError(f'it evaluates {text!r:.80}, which was not run')
    if key == 'path_name' and not _PLACES.fullmatch(text):
        raise ValueError(f'it has an object {text!r:.80} that is not a tensor')


def _check(content: Any) -> None:
    """Raise a ValueError for content of one of the texts of an archive that no export of ours has."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if value.get('use_pickle') or value.get('treespec_namedtuple_fields'):
                raise ValueError('it has pickles or types of its own, which were not loaded')
            for guard in value.get('guards_code') or ():
                if not _is_arithmetic(guard, _GUARD, "%!.'\\[\\]"):
                    raise ValueError(f'it evaluates {guard!r:.80}, which was not run')
            for key, item in value.items():
                if isinstance(item, str):
                    _check_text(key, item)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _check_archive(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = names[0].partition('/')[0] if names else ''
        for name, count in Counter(name.casefold() for name in names).items():  # readers differ in which one they take
            if count > 1:
                raise ValueError(f'it has {name!r:.80} twice')
        for info in archive.infolist():
            place = info.filename.removeprefix(f'{root}/')
            if not _FILES.fullmatch(place):
                raise ValueError(f'it has a part {place!r:.80} that an export of gkgnet_timm does not have')
            if place.endswith('.json'):
                if info.file_size > _LARGEST:
                    raise ValueError(f'its part {place!r} is of {info.file_size} bytes')
                _check(json.loads(archive.read(info)))
        if f'{root}/models/model.json' not in names:
            raise ValueError('it has no program')


@contextmanager
def _without_pickles() -> Iterator[None]:
    """Let torch.load read tensors only, whatever its caller asks for."""
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(name)
    os.environ[name] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def load_pt2(path: str) -> Callable[[torch.Tensor], Dict[str, torch.Tensor]]:
    """Return the program of a file that `export_model` wrote.

    Raises:
        ValueError: If the file has anything else than an export has.
        Exception: Of many types, for a damaged file.
    """
    _check_archive(path)
    with _without_pickles():
        return torch.export.load(path).module()
