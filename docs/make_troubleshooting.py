"""Write the list of all messages at the end of docs/troubleshooting.md, from the code of the package.

Run it in the root of the repository: python docs/make_troubleshooting.py
"""

import ast
import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'gkgnet_timm'
PAGE = ROOT / 'docs' / 'troubleshooting.md'
MARK = '<!-- From here on written by docs/make_troubleshooting.py. Change the messages, not this page. -->\n'

GROUPS = {  # of the list, by what somebody was doing, and the rooms and files whose messages they are
    'Flags and commands': ('commands', '__main__', 'runtime'),
    'Data: annotations and images': ('data', 'class_names', 'label_rows'),
    'Weights and checkpoints': ('weights',),
    'Models': ('models', 'layers'),
    'Training': ('training', 'loss'),
    'Evaluation and reports': ('evaluation', 'metrics', 'report'),
    'Prediction': ('inference',),
    'Explanation': ('explanation',),
    'Export': ('export',),
    'Serving': ('serving',),
    'Kernels, self-test, benchmark': ('graph', 'selftest', 'benchmark'),
}
OF_PROGRAMMERS = ('AttributeError', 'KeyError', 'NotImplementedError')  # of Python's own protocols
ERRORS = ('UserError', 'LineError')
WARNERS = ('warn', 'warning')  # of `warnings` and of loggers


class Message(NamedTuple):
    """A message and the module that it is from."""

    text: str
    module: str
    is_warning: bool


def _placeholder(node: ast.expr) -> str:
    """What stands for a value: its name, where it has a plain one."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and getattr(node.func, 'id', '') in ('str', 'quoted', 'len'):
        return _placeholder(node.args[0])
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else '__'
    return '…' if name.startswith('__') else '{' + name.strip('_') + '}'


def _text(node: ast.expr, constants: Dict[str, ast.expr]) -> Optional[str]:
    """A text as it stands in the code, `{name}` or … for values, None if there is no text in it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name) and node.id in constants:
        return _text(constants[node.id], {})
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        parts = [_text(part, constants) for part in (node.left, node.right)]
        return ''.join(part or '…' for part in parts) if any(parts) else None
    if isinstance(node, ast.IfExp):
        parts = [_text(part, constants) for part in (node.body, node.orelse)]
        return ' | '.join(part for part in parts if part and any(map(str.isalpha, part))) or None
    if isinstance(node, ast.JoinedStr):
        text = ''
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                text += _text(part.value, constants) or _placeholder(part.value)
            else:
                text += part.value
        return text if any(isinstance(part, ast.Constant) for part in node.values) else None
    return None


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, 'id', '')


def _said(node: ast.AST) -> Iterator[Tuple[ast.expr, str]]:
    """Texts that a user may read, each an 'error', a 'warning', or 'printed': then its first word says which."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _name(node.exc.func) not in OF_PROGRAMMERS:
        yield from ((part, 'error') for part in node.exc.args)
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call) and _name(node.value.func) in ERRORS:
        yield from ((part, 'error') for part in node.value.args)  # a function that makes an error
    elif isinstance(node, ast.Call) and _name(node.func) == 'error':  # of a parser of flags
        yield from ((part, 'error') for part in node.args)
    elif isinstance(node, ast.Call) and _name(node.func) in WARNERS:
        yield from ((part, 'warning') for part in node.args[:1])
    elif isinstance(node, (ast.JoinedStr, ast.Constant)):
        yield node, 'printed'


def _constants(tree: ast.Module) -> Dict[str, ast.expr]:
    """The values of the names in capitals."""
    found = ((node.targets[0], node.value) for node in tree.body if isinstance(node, ast.Assign))
    return {name.id: value for name, value in found if isinstance(name, ast.Name) and name.id.isupper()}


def collect(module: str, tree: ast.Module, constants: Dict[str, ast.expr]) -> List[Message]:
    """The messages of a module: what it raises, warns of, and prints as a warning."""
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    nodes = [node for node in ast.walk(tree) if hasattr(node, 'lineno') and node not in inside]
    found: Dict[str, Message] = {}
    for node in sorted(nodes, key=lambda node: node.lineno):
        for said, kind in _said(node):
            text = ' '.join((_text(said, constants) or '').split())
            if kind == 'printed':
                word, colon, text = text.partition(': ')
                kind = word.lower() if colon and word in ('Warning', 'error') else ''
            if kind and any(map(str.isalpha, re.sub(r'{\w+}', '', text))):
                found.setdefault(text, Message(text, module, kind == 'warning'))
    return list(found.values())


def _group(path: Path) -> str:
    """The group of a module. A new room has to be placed in one."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    return next(name for name, rooms in GROUPS.items() if room in rooms)


def make_list() -> str:
    """The list of all messages, by group."""
    trees = {path: ast.parse(path.read_text(encoding='utf-8')) for path in sorted(PACKAGE.rglob('*.py'))}
    shared = {name: value for tree in trees.values() for name, value in _constants(tree).items()}  # of imports
    groups: Dict[str, List[Message]] = {name: [] for name in GROUPS}
    for path, tree in trees.items():
        module = path.relative_to(PACKAGE).with_suffix('').as_posix()
        if messages := collect(module, tree, {**shared, **_constants(tree)}):
            groups[_group(path)] += messages
    parts = []
    for name, messages in groups.items():
        rows = [f'| {"*Warning:* " * m.is_warning}{_code(m.text)} | {m.module} |' for m in messages]
        parts.append('\n'.join([f'### {name}\n', '| message | module |', '|---|---|', *rows]) + '\n')
    return '\n'.join(parts)


def _code(text: str) -> str:
    """A text as code in a cell of a table."""
    fence = '``' if '`' in text else '`'
    pad = ' ' if text.startswith('`') or text.endswith('`') else ''
    return f'{fence}{pad}{text}{pad}{fence}'.replace('|', '\\|')


def make_page(page: str) -> str:
    """The page with a fresh list after its mark."""
    return page.partition(MARK)[0] + MARK + '\n' + make_list()


if __name__ == '__main__':
    PAGE.write_text(make_page(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
