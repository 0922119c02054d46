"""Rules of the package's structure that import-linter cannot check. Every check is tried on a violation, too."""

import ast
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from gkgnet_timm.__main__ import COMMANDS

PACKAGE = ROOT / 'gkgnet_timm'
MOST_FLAT_FILES = 8
MOST_LINES = 500

LATE = {  # what a function may import, and why not the module
    'aiohttp': 'an optional dependency, for images on web servers only',
    'cleanlab': 'an optional dependency, for reports only',
    'datasets': 'an optional dependency, for streams of hfds/ only',
    'filelock': 'imports asyncio: a third of the time of --help',
    'gkgnet_timm.graph.gpu_kernels': 'needs Triton, which torch brings for GPUs only',
    'gkgnet_timm.serving': 'needs FastAPI and uvicorn, optional dependencies',
    'gkgnet_timm.weights.published': 'loads all that converts and reads images, for weights not yet installed only',
    'iterstrat': 'not a dependency, for stratified splits only',
    'matplotlib': 'slow, and for plots only',
    'onnx': 'an optional dependency, to export only',
    'onnx_ir': 'an optional dependency, to export only',
    'onnxscript': 'an optional dependency, to export only',
    'onnxruntime': 'an optional dependency, to export and to run exported models only',
    'pillow_heif': 'an optional dependency, for files in HEIC format only',
    'pytorch_grad_cam': 'an optional dependency, for explain --evaluate only',
    'torch._higher_order_ops.scan': 'a prototype of PyTorch, for graphs of ONNX only',
    'torch.utils.tensorboard': 'needs tensorboard, for --log-tensorboard only',
    'wandb': 'not a dependency, for --log-wandb only',
    'webdataset': 'an optional dependency, for streams of wds/ only',
}

PRIVATE = {  # private names of torch, and why there is no way around them
    'torch._higher_order_ops.scan.scan': 'has no public name; exporters of PyTorch know it alone as a loop of slices',
    'torch._subclasses.FakeTensorMode': 'has no public name; the documentation of PyTorch imports it from there',
    'torch.utils._python_dispatch._get_current_dispatch_mode': 'nothing public tells that operators are recorded',
    'torch.nn.modules.module._global_backward_hooks': 'nothing public tells of the hooks of all modules',
    'torch.nn.modules.module._global_backward_pre_hooks': 'nothing public tells of the hooks of all modules',
    'torch.nn.modules.module._global_forward_hooks': 'nothing public tells of the hooks of all modules',
    'torch.nn.modules.module._global_forward_pre_hooks': 'nothing public tells of the hooks of all modules',
    'torch.nn.modules.batchnorm._BatchNorm': 'the base class of batch norms has no other name; timm imports it, too',
}

UNIX = ['fcntl', 'grp', 'pwd', 'resource', 'syslog', 'termios', 'tty']
SLOW = {'PIL', 'huggingface_hub', 'matplotlib', 'numpy', 'safetensors', 'timm', 'torch', 'torchvision'}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}


# --- the checks: from the name and tree of a module to its violations


def is_in(name, parents):
    return any(name == parent or name.startswith(f'{parent}.') for parent in parents)


def imports(module, tree):
    """Yield (line, package or module, name or None) of every import below a node, with absolute names."""
    package = module if module in FILES and FILES[module].name == '__init__.py' else module.rpartition('.')[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: package.count('.') + 2 - node.level] if node.level else []
            source = '.'.join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, source, alias.name) for alias in node.names)


def imported_names(module, tree):
    for line, source, name in imports(module, tree):
        yield line, f'{source}.{name}' if name else source


def late_imports(module, tree):
    """Imports inside functions hide circles; only slow and optional libraries may be imported so."""
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    found = {item for function in functions for item in imported_names(module, function)}
    return [f'line {line}: {name} inside a function' for line, name in sorted(found) if not is_in(name, LATE)]


def argparse_below_commands(module, tree):
    """Flags end in the commands, so that everything below can be called from Python."""
    if is_in(module, ['gkgnet_timm.commands', 'gkgnet_timm.__main__']):
        return []
    return [f'line {line}: {name}' for line, name in imported_names(module, tree) if is_in(name, ['argparse'])]


def type_checking(module, tree):
    """Imports for type checkers only are circles in disguise. Nothing imports the package itself, see `own_package`."""
    if module == 'gkgnet_timm':  # loads some names on first use
        return []
    found = [f'line {line}: {name}' for line, name in imported_names(module, tree) if name.endswith('.TYPE_CHECKING')]
    return found + [
        f'line {node.lineno}: TYPE_CHECKING'
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == 'TYPE_CHECKING'
    ]


def private_torch(module, tree):
    """Private names of torch change without notice."""
    aliases = {}  # what names at the start of an attribute stand for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {
                a.asname or a.name.partition('.')[0]: a.name if a.asname else a.name.partition('.')[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {a.asname or a.name: f'{node.module}.{a.name}' for a in node.names}
    found = set(imported_names(module, tree))
    for node in ast.walk(tree):
        parts, start = [], node
        while isinstance(start, ast.Attribute):
            parts.insert(0, start.attr)
            start = start.value
        if parts and isinstance(start, ast.Name) and start.id in aliases:
            found.add((node.lineno, '.'.join([aliases[start.id], *parts])))
    return [
        f'line {line}: {name}'
        for line, name in sorted(found)
        if is_in(name, ['torch']) and not is_in(name, PRIVATE)
        if any(part.startswith('_') and not part.startswith('__') for part in name.split('.'))
    ]


def own_package(module, tree):
    """The `__init__` of a package imports its modules: what they import from it goes in a circle."""
    return [
        f'line {line}: {name or "all"} from {source}'
        for line, source, name in imports(module, tree)
        if is_in(module, [source]) and f'{source}.{name}' not in FILES
    ]


def long_file(module, source):
    lines = source.count('\n')
    return [f'{lines} lines, at most {MOST_LINES}'] if lines > MOST_LINES else []


CHECKS = [late_imports, argparse_below_commands, type_checking, private_torch, own_package]


# --- the package


@pytest.mark.parametrize('check', CHECKS, ids=lambda check: check.__name__)
def test_modules(check):
    found = [f'{name}, {what}' for name, path in FILES.items() for what in check(name, ast.parse(path.read_text()))]
    assert not found, '\n'.join([check.__doc__, *found])


@pytest.mark.parametrize('check, exceptions', [(late_imports, LATE), (private_torch, PRIVATE)])
def test_exceptions_are_needed(check, exceptions, monkeypatch):
    needed = dict(exceptions)
    monkeypatch.setattr(sys.modules[__name__], 'LATE', {})
    monkeypatch.setattr(sys.modules[__name__], 'PRIVATE', {})
    found = ' '.join(what for name, path in FILES.items() for what in check(name, ast.parse(path.read_text())))
    assert needed and not [name for name in needed if name not in found]


def test_files_are_short():
    assert not [f'{name}: {what}' for name, path in FILES.items() for what in long_file(name, path.read_text())]


def flat_files(folder):
    return sorted(path.name for path in folder.glob('*.py'))


def test_few_files_outside_of_rooms():
    assert len(flat_files(PACKAGE)) <= MOST_FLAT_FILES, flat_files(PACKAGE)


# --- a check that cannot fail is worthless


@pytest.mark.parametrize(
    'check, module, source, line',
    [
        (late_imports, 'gkgnet_timm.graph.cpu', 'def f():\n    from .eager import interleave', 2),
        (late_imports, 'gkgnet_timm.data.check', 'class A:\n    async def f(self):\n        import yaml', 3),
        (late_imports, 'gkgnet_timm.graph.gpu', 'def f():\n    from . import gpu, gpu_kernels', 2),
        (late_imports, 'gkgnet_timm.graph.gpu', 'def f():\n    import matplotlib_inline', 2),
        (argparse_below_commands, 'gkgnet_timm.data.splits', 'import argparse', 1),
        (argparse_below_commands, 'gkgnet_timm.loss', 'def f():\n    from argparse import Namespace', 2),
        (argparse_below_commands, 'gkgnet_timm.commands_of_ours', 'import argparse as flags', 1),
        (type_checking, 'gkgnet_timm.loss', 'from typing import TYPE_CHECKING', 1),
        (type_checking, 'gkgnet_timm.loss', 'import typing\nif typing.TYPE_CHECKING:\n    pass', 2),
        (private_torch, 'gkgnet_timm.loss', 'import torch._dynamo', 1),
        (private_torch, 'gkgnet_timm.loss', 'from torch._subclasses import FakeTensor', 1),
        (private_torch, 'gkgnet_timm.loss', 'from torch.nn.modules.module import _grad_t', 1),
        (private_torch, 'gkgnet_timm.loss', 'import torch\ntorch._C._get_tracing_state()', 2),
        (private_torch, 'gkgnet_timm.loss', 'import torch.nn as nn\nnn.modules.conv._ConvNd', 2),
        (private_torch, 'gkgnet_timm.loss', 'from torch import nn\nnn.modules.conv._ConvNd', 2),
        (own_package, 'gkgnet_timm.data.check', 'from . import MultiLabelDataset', 1),
        (own_package, 'gkgnet_timm.data.readers.coco', 'from .. import MultiLabelDataset', 1),
        (own_package, 'gkgnet_timm.data.check', 'from .. import __version__', 1),
        (own_package, 'gkgnet_timm.data.check', 'from gkgnet_timm.data import create_dataset', 1),
        (own_package, 'gkgnet_timm.data.check', 'import gkgnet_timm', 1),
    ],
)
def test_violations_are_found(check, module, source, line):
    found = check(module, ast.parse(source))
    assert found and all(what.startswith(f'line {line}: ') for what in found)


@pytest.mark.parametrize(
    'check, module, source',
    [
        (
            late_imports,
            'gkgnet_timm.loss',
            'import torch\ntry:\n    import wandb\nexcept ImportError:\n    wandb = None',
        ),
        (
            late_imports,
            'gkgnet_timm.graph.gpu',
            'def f():\n    from . import gpu_kernels\n    import matplotlib.figure',
        ),
        (argparse_below_commands, 'gkgnet_timm.commands.flags.train', 'import argparse'),
        (argparse_below_commands, 'gkgnet_timm.__main__', 'import argparse'),
        (private_torch, 'gkgnet_timm.loss', 'import torch\nimport _thread\ntorch.__version__\nself._weight'),
        (private_torch, 'gkgnet_timm.loss', 'from torch.nn.modules.batchnorm import _BatchNorm'),
        (type_checking, 'gkgnet_timm', 'from typing import TYPE_CHECKING'),
        (own_package, 'gkgnet_timm.data.check', 'from . import dataset\nfrom .dataset import A\nfrom .. import loss'),
        (own_package, 'gkgnet_timm.data', 'from .dataset import MultiLabelDataset\nfrom ..graph import dense'),
        (own_package, 'gkgnet_timm.commands.train', 'from ..data import create_dataset'),
    ],
)
def test_what_is_allowed(check, module, source):
    assert check(module, ast.parse(source)) == []


def test_sizes_are_noticed(tmp_path):
    assert long_file('', 'x = 1\n' * MOST_LINES) == []
    assert long_file('', 'x = 1\n' * (MOST_LINES + 1))
    (tmp_path / 'room').mkdir()
    for path in ('one.py', 'two.py', 'notes.md', 'room/three.py'):
        (tmp_path / path).touch()
    assert flat_files(tmp_path) == ['one.py', 'two.py']


# --- help and mistyped commands do not wait for slow libraries


def slow_imports(*argv):
    """Run Python; return its exit status and which of the slow libraries it imported."""
    run = subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONPROFILEIMPORTTIME': '1'},
    )
    report = [line.split('|')[2].strip() for line in run.stderr.splitlines() if line.startswith('import time:')]
    assert 'encodings' in report  # that is, Python wrote its report
    return run.returncode, SLOW.intersection(report)


def test_slow_imports_are_noticed():
    assert slow_imports('-c', 'import numpy; exit(3)') == (3, {'numpy'})


@pytest.mark.parametrize(
    'argv, status',
    [
        (['--help'], 0),
        ([], 2),
        (['nonsense'], 2),
        *[([command, '--help'], 0) for command in COMMANDS],
        *[([command, '--no-such-flag'], 2) for command in COMMANDS],
    ],
)
def test_help_and_typos_are_quick(argv, status):
    assert slow_imports('-m', 'gkgnet_timm', *argv) == (status, set())


def test_importing_the_models_loads_no_data_sets():
    script = (
        'import sys, gkgnet_timm\n'
        'assert not {"gkgnet_timm.data", "torchvision.transforms.v2"}.intersection(sys.modules)\n'
        'from gkgnet_timm import load_model, predict_images\n'
        'assert gkgnet_timm.load_model is load_model and not hasattr(gkgnet_timm, "load_models")\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}
    )
    assert run.returncode == 0, run.stderr


# --- Windows has none of the modules of Unix


def test_all_modules_import_on_windows():
    names = sorted(set(FILES) - {'gkgnet_timm.__main__', 'gkgnet_timm.graph.gpu_kernels'})
    script = (
        'import importlib, sys\nimport torch, timm, torchvision, huggingface_hub, filelock, PIL.Image\n'
        f'sys.modules.update(dict.fromkeys({UNIX!r}))\nfor name in {names!r}: importlib.import_module(name)\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}
    )
    assert run.returncode == 0, run.stderr
