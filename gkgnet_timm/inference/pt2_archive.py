"""Load a program of torch.export without running code that is in the file.

PyTorch unpickles what such an archive asks for, evaluates its expressions, imports its types, writes source code with
its names and calls whatever function a node names. So an archive is read first: what it says has to be numbers, plain
names, operators of PyTorch and arithmetic of sizes. PyTorch then reads a copy of what was checked.
"""

import io
import json
import os
import re
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Set

import torch

__all__ = ['load_pt2']

_FILES = re.compile(
    r'data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|'
    r'models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version|\.data/\w+'
)
_PLACES = re.compile(r'(weight|tensor)_\d+')
_PLAIN = re.compile(r'\w*', re.ASCII)
_DOTTED = re.compile(r'[\w.+]*', re.ASCII)
_RANGE = re.compile(r'(\d+\*)?[suz]\d+', re.ASCII)
_NAMES_OF_TENSORS = ('parameter_name', 'buffer_name', 'tensor_constant_name', 'fqn', 'torch_version')
_TARGETS = re.compile(
    r'torch\.ops\.aten\.(?!from_file|save)\w+\.\w+|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|'
    r'torch\.sym_(min|max|not|ite|sum|int|float)|math\.(ceil|floor|trunc)|'
    r'_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|le|lt|ge|gt|and_|or_)',
    re.ASCII,
)
_GUARD = set('L images size torch sym_max sym_min max min and or not'.split())
_SYMPY = set(
    'FloorDiv CeilDiv CleanDiv Mod PythonMod Max Min Eq Ne Le Lt Ge Gt And Or Not Add Mul Pow Integer Rational Symbol '
    'True False positive integer nonnegative int_oo oo'.split()
)
_LARGEST = 1 << 28  # bytes of text


def _is_arithmetic(text: str, names: Set[str], others: str) -> bool:
    """Whether an expression is of numbers, sizes such as s12, these names, and no other signs than these."""
    known = all(name in names or re.fullmatch(r'[suz]\d+', name) for name in re.findall(r'[^\W\d]\w*', text))
    known = known and not re.search(rf'[^\w\s+\-*/(),<>={others}]', text, re.ASCII)
    return known and '**' not in text and text.count('Pow') < 5 and not re.search(r'\d{10}', text)


def _check_spec(text: str) -> None:
    """Check how inputs or outputs are nested: in tuples, lists and mappings of plain names alone."""
    pending = [json.loads(text)[1]]
    while pending:
        spec = pending.pop()
        names = json.loads(spec['context'] or 'null') or []
        known = spec['type'] in (None, 'builtins.tuple', 'builtins.list', 'builtins.dict') and len(spec) == 3
        if not known or not isinstance(names, list) or not all(_PLAIN.fullmatch(str(name)) for name in names):
            raise ValueError(f'it has a type {str(spec)!r:.80}, which was not loaded')
        pending += spec['children_spec']


def _check_text(key: str, text: str) -> None:
    if key == 'target':
        if not _TARGETS.fullmatch(text):
            raise ValueError(f'it calls {text!r:.80}, which was not run')
    elif key in ('expr_str', 'guards_code'):
        names, others = (_SYMPY, "&|~'") if key == 'expr_str' else (_GUARD, "%!.'\\[\\]")
        if not _is_arithmetic(text, names, others):
            raise ValueError(f'it evaluates {text!r:.80}, which was not run')
    elif key in ('in_spec', 'out_spec'):
        _check_spec(text)
    elif key == 'path_name':
        if not _PLACES.fullmatch(text):
            raise ValueError(f'it has an object {text!r:.80} that is not a tensor')
    elif not (_DOTTED if key in _NAMES_OF_TENSORS else _PLAIN).fullmatch(text):
        raise ValueError(f'it has a name {text!r:.80}, which was not used')


def _check(content: Any) -> Any:
    """Return the content of a text of an archive without what is for people only.

    Raises:
        ValueError: If it has something that no export of ours has.
    """
    pending = [('', content)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            _check_text(key, value)
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, dict):
            if 'metadata' in value:  # where in the code a node comes from
                value['metadata'] = {}
            if value.get('use_pickle') or value.get('treespec_namedtuple_fields'):
                raise ValueError('it has pickles or types of its own, which were not loaded')
            form = _DOTTED if key == 'config' else _RANGE if key == 'range_constraints' else _PLAIN
            for name in value:
                if not form.fullmatch(name):
                    raise ValueError(f'it has a name {name!r:.80}, which was not used')
            pending += value.items()
    return content


def _checked(content: bytes) -> io.BytesIO:
    """A copy of an archive, of the parts that were checked, since other readers may see others in the same bytes."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(copy, 'w') as result:
        names = archive.namelist()
        root = names[0].partition('/')[0] if names else ''
        for name, count in Counter(name.casefold() for name in names).items():
            if count > 1:
                raise ValueError(f'it has {name!r:.80} twice')
        if not _PLAIN.fullmatch(root) or f'{root}/models/model.json' not in names:
            raise ValueError('it has no program')
        for info in archive.infolist():
            place = info.filename.removeprefix(f'{root}/')
            if not _FILES.fullmatch(place) or info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f'it has a part {place!r:.80} that an export of gkgnet_timm does not have')
            part = archive.read(info)
            if place.endswith('.json'):
                if len(part) > _LARGEST:
                    raise ValueError(f'its part {place!r} is of {len(part)} bytes')
                part = json.dumps(_check(json.loads(part))).encode()
            result.writestr(info.filename, part)
    copy.seek(0)
    return copy


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
    checked = _checked(Path(path).read_bytes())
    with _without_pickles():
        return torch.export.load(checked).module()
