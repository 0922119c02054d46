"""The API reference: complete, described, and as its pages say it is."""

import importlib
import inspect
import json
import re
import runpy
import typing

import griffe
import pytest
from conftest import ROOT

API = runpy.run_path(str(ROOT / 'docs' / 'make_api.py'))
NAMES = API['public_names']()
PATHS = [name.path for name in NAMES]
# modules whose `__all__` is public as a whole; of others the names that the reference lists
WHOLE = [f'gkgnet_timm{name}' for name in ('', '.data', '.graph', '.label_rows', '.loss', '.metrics')]
IMPORT = re.compile(r'^\s*from (gkgnet_timm[\w.]*) import ([\w, ]+)', re.MULTILINE)
INSIDE = ROOT / 'docs' / 'extending.md'  # says itself that it goes below the reference
ATTRIBUTE = re.compile(r'\bgkgnet_timm(?:\.\w+)+(?=\()')


def imported(path):
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def used_names(text):
    """Names of the package that code in a page imports, or calls by their full path."""
    lists = (
        (module, name.split(' as ')[0].strip()) for module, names in IMPORT.findall(text) for name in names.split(',')
    )
    return {f'{module}.{name}' for module, name in lists} | set(ATTRIBUTE.findall(text))


def page_text(path):
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb':
        return text
    return '\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'])


def own_classes(hint):
    """Classes of the package in a type hint."""
    if inspect.isclass(hint) and hint.__module__.startswith('gkgnet_timm'):
        yield hint
    for part in typing.get_args(hint):
        yield from own_classes(part)


def types_of(thing):
    """Classes of the package that the signature of a function has, or of a class: its fields and public methods."""
    parts = [thing]
    if inspect.isclass(thing):
        parts += [part for name, part in vars(thing).items() if inspect.isfunction(part) and not name.startswith('_')]
        parts.append(thing.__init__)
    for part in parts:
        if inspect.isclass(part) or inspect.isfunction(part):
            for hint in typing.get_type_hints(part).values():
                yield from own_classes(hint)


def members(thing):
    """A class with its public methods and classes, or what else an object of griffe is, alone."""
    yield thing
    if thing.is_class:
        for member in thing.members.values():
            if not (member.name.startswith('_') or member.is_alias or member.is_attribute):
                yield from members(member)


def undescribed(thing):
    return [member.path for member in members(thing) if not (member.docstring and member.docstring.value.strip())]


@pytest.mark.parametrize('page, make', [('names', 'make_names'), ('train-config', 'make_fields')])
def test_pages_are_up_to_date(page, make):
    text = (ROOT / 'docs' / 'api' / f'{page}.md').read_text(encoding='utf-8')
    assert text == API[make](), 'run: PYTHONPATH=. python docs/make_api.py'


def test_names_are_listed_once():
    assert len(PATHS) == len(set(PATHS)) > 50


@pytest.mark.parametrize('name', NAMES, ids=PATHS)
def test_public_names(name):
    """Each can be imported from where it is said to be, and it and its methods are described."""
    module = importlib.import_module(name.path.rpartition('.')[0])
    assert name.path.rpartition('.')[2] in module.__all__
    assert imported(name.path) is not None
    assert 10 < len(name.summary) <= 160, name.summary
    assert name.summary[-1] in '.:' and name.summary[0].upper() == name.summary[0] or name.summary[0] in 'k`', name
    assert not undescribed(API['find'](name.path))


@pytest.mark.parametrize('module', WHOLE)
def test_whole_modules_are_listed(module):
    names = importlib.import_module(module).__all__
    assert not {f'{module}.{name}' for name in names}.difference(PATHS)


@pytest.mark.parametrize(
    'path', sorted({*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('docs/*.ipynb')} - {INSIDE}), ids=str
)
def test_names_in_pages_are_public(path):
    public = [imported(name) for name in PATHS]
    used = {name for name in used_names(page_text(path)) if name not in PATHS}
    assert not [name for name in used if not any(imported(name) is thing for thing in public)]


def test_types_of_public_names_are_public():
    public = {imported(path) for path in PATHS if inspect.isclass(imported(path)) or callable(imported(path))}
    needed = {kind: path for path in PATHS for kind in types_of(imported(path))}
    assert not {kind.__qualname__: path for kind, path in needed.items() if kind not in public}


def returned(thing):
    """What griffe takes for the type that a docstring says is returned: text before a colon, else the annotation."""
    sections = thing.docstring.parse('google', returns_multiple_items=False, returns_named_value=False)
    return [part.annotation for section in sections if section.kind.value == 'returns' for part in section.value]


def test_docstrings_are_understood(caplog):
    """griffe, which the reference is made by, warns of sections and arguments that it does not understand."""
    for path in PATHS:
        for thing in members(API['find'](path)):
            assert not [text for text in returned(thing) if isinstance(text, str) and ' ' in text], thing.path
    assert not caplog.records


def test_violations_are_found(caplog):
    assert used_names('    from gkgnet_timm.loss import A, B as C\nx = gkgnet_timm.data.f(1)') == {
        'gkgnet_timm.loss.A',
        'gkgnet_timm.loss.B',
        'gkgnet_timm.data.f',
    }
    docstring = 'Do.\n\n        Args:\n            y: No.\n\n        Returns:\n            Of x: y\n        '
    method = f'def g(self, x):\n        """{docstring}"""'
    source = f'class A:\n    """An A."""\n\n    def f(self): pass\n\n    {method}'
    with griffe.temporary_visited_module(source) as module:
        assert undescribed(module['A']) == ['module.A.f']
        assert returned(module['A.g']) == ['Of x']
    assert "'y'" in caplog.text

    name = API['Name']
    name.__module__ = 'gkgnet_timm.some'
    assert list(own_classes(typing.Optional[typing.List[name]])) == [name]
