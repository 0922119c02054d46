"""Lists in a cell, as Python, JSON and numpy print them."""

import ast
import json
import re
from typing import List, NamedTuple, Optional

__all__ = ['Item', 'is_list', 'parse_list']

_WRAPPED = re.compile(r'(?:np\.|numpy\.)?(?:array|set|frozenset|tuple|list)\((.*?)(?:,\s*dtype=[^\])}]*)?\)', re.S)
_SCALAR = re.compile(r'(?:np|numpy)\.(?:str_|bool_?|u?int\d*|float\d*)\(([^()]*)\)|(?:np|numpy)\.(?=True_?|False_?)')
_ITEM = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<word>[^\s,'"()\[\]{}]+))\s*,?\s*""", re.S
)
_WORD = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|true_?|false_?|none|null|nan', re.I)
_PAIRS = ('[]', '()', '{}')


class Item(NamedTuple):
    """An element of a list."""

    value: str
    is_text: bool  # in quotes


def _inside(cell: str) -> Optional[str]:
    wrapped = _WRAPPED.fullmatch(cell)
    cell = wrapped[1].strip() if wrapped else cell
    return cell[1:-1].strip() if len(cell) > 1 and cell[0] + cell[-1] in _PAIRS else '' if wrapped else None


def _text(token: str) -> str:
    try:
        return json.loads(token)
    except ValueError:
        return ast.literal_eval(token)


def parse_list(cell: str) -> Optional[List[Item]]:
    """Return the items of a list, None if a cell is not one.

    Raises:
        ValueError: If a cell is in square brackets, but not a list of text in quotes or numbers. The message says why.
    """
    inside = _inside(cell)
    if inside is None:
        return None
    items: List[Item] = []
    rest = _SCALAR.sub(lambda found: found[1] or '', inside)
    position = 0
    while position < len(rest):
        found = _ITEM.match(rest, position)
        unreadable = f'cannot be read from {rest[position : position + 20]!r} on'
        problem = None if found else unreadable
        if found and found['word'] and not _WORD.fullmatch(found['word']):
            cut = found['word'] == '...'
            problem = 'was cut when it was printed' if cut else f'has {found["word"]!r} without quotes'
        if found and found['text']:
            try:
                items.append(Item(_text(found['text']), True))
            except (ValueError, SyntaxError):
                problem = unreadable
        if problem:
            if cell[0] == '(':  # a name in brackets
                return None
            raise ValueError(problem)
        if found['word']:
            items.append(Item(found['word'].rstrip('_'), False))
        position = found.end()
    return items


def is_list(cell: str) -> bool:
    """Tell whether a cell is or claims to be a list."""
    try:
        return parse_list(cell) is not None
    except ValueError:
        return True
