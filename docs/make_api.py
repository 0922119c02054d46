"""Write docs/api/names.md and docs/api/train-config.md from the API reference, docstrings and flags.

Run it in the root of the repository: PYTHONPATH=. python docs/make_api.py
"""

import re
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, List, NamedTuple, Union, get_args, get_origin, get_type_hints

import griffe

from gkgnet_timm.benchmark.tables import markdown
from gkgnet_timm.commands.flags.train import create_parser
from gkgnet_timm.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
API = ROOT / 'docs' / 'api'
DIRECTIVE = re.compile(r'^::: (\S+)', re.MULTILINE)
WORKERS = 'up to 4; in Python 0 on Windows, macOS and from Python 3.14, see `predict_images`'

NAMES = """# All public names

<!-- Written by docs/make_api.py from the pages beside it and from docstrings. Change those, not this page. -->
"""

FIELDS = """# Fields of `TrainConfig`

<!-- Written by docs/make_api.py from the flags of the command `train`. Change those, not this page. -->

Each field is a flag of `gkgnet-timm train` as well: `batch_size=16` is `--batch-size 16`.

"""


class Name(NamedTuple):
    """A public name: where it is imported from, the page that has it, and its docstring."""

    path: str
    page: str
    docstring: str

    @property
    def summary(self) -> str:
        """First sentence of the docstring, in one line."""
        first = ' '.join(self.docstring.partition('\n\n')[0].split())
        return re.split(r'(?<=[.])\s(?=[A-Z0-9`])', first)[0]


@cache
def package() -> Any:
    """The package as griffe reads it, without an import."""
    return griffe.load('gkgnet_timm', search_paths=[str(ROOT)], docstring_parser='google')


def find(path: str) -> Any:
    """What a path such as gkgnet_timm.data.open_split stands for."""
    found = package()[path.removeprefix('gkgnet_timm.')]
    return found.final_target if found.is_alias else found


def public_names() -> List[Name]:
    """All names of the reference, in the order of its pages."""
    pages = re.findall(r'\]\((\w+)\.md\)', (API / 'index.md').read_text(encoding='utf-8').partition('| page |')[2])
    names = []
    for page in dict.fromkeys(pages):
        for path in DIRECTIVE.findall((API / f'{page}.md').read_text(encoding='utf-8')):
            found = find(path)
            names.append(Name(path, page, found.docstring.value if found.docstring else ''))
    return names


def make_names() -> str:
    """Return the page of names: a table for each page of the reference."""
    parts, names = [NAMES], public_names()
    for page in dict.fromkeys(name.page for name in names):
        title = (API / f'{page}.md').read_text(encoding='utf-8').partition('\n')[0].lstrip('# ')
        rows = [
            dict(name=f'[`{name.path}`]({page}.md#{name.path})', summary=name.summary)
            for name in names
            if name.page == page
        ]
        table = markdown(rows, dict(name='name', summary='what it is'))
        parts.append(f'## {title}\n\n{table}\n')
    return '\n'.join(parts)


def in_typing(kind: Any) -> str:
    """Return a type as the code has it: since Python 3.14 unions say `A | B`, which would end a cell of a table."""
    if get_origin(kind) is Union:
        known = [in_typing(item) for item in get_args(kind) if item is not type(None)]
        text = known[0] if len(known) == 1 else f'Union[{", ".join(known)}]'
        return f'Optional[{text}]' if type(None) in get_args(kind) else text
    return kind.__name__ if isinstance(kind, type) else str(kind).replace('typing.', '')


def make_fields() -> str:
    """Return the page of the fields of `TrainConfig`, with what the command line says of each."""
    helps = {action.dest: action.help or '' for action in create_parser()._actions}
    rows = []
    for item in fields(TrainConfig):
        default = item.default if item.default is not MISSING else item.default_factory
        default = default() if callable(default) else default
        shown = '' if default is MISSING else WORKERS if item.name == 'workers' else f'`{default!r}`'
        said = re.sub(r' ?\(default: %\(default\)s\)', '', helps[item.name])
        rows.append(
            dict(
                name=f'`{item.name}`',
                type=f'`{in_typing(get_type_hints(TrainConfig)[item.name])}`',
                default=shown,
                said=said.replace('%%', '%').replace('|', r'\|'),
            )
        )
    return FIELDS + markdown(rows, dict(name='field', type='type', default='default', said='what it does')) + '\n'


if __name__ == '__main__':
    (API / 'names.md').write_text(make_names(), encoding='utf-8')
    (API / 'train-config.md').write_text(make_fields(), encoding='utf-8')
