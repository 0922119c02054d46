"""Lists in a cell, as Python, JSON and numpy print them."""

import ast
import json
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .base import first_names
from .table_cells import LineError, code_of, is_no_label

__all__ = ['Item', 'find_multi_hot', 'parse_list', 'parse_lists']

_WRAPPED = re.compile(r'(?:(?:set|frozenset|tuple|list)|[A-Za-z_][\w.]*(?=\([\[({]))\((.*)\)', re.S)
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
    if wrapped:
        before, name, after = wrapped[1].rpartition('dtype=')
        is_type = name and before.rstrip().endswith(',') and not re.search(r'[\])}]', after)
        cell = before.rstrip()[:-1].strip() if is_type else wrapped[1].strip()
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


def parse_lists(cells: Sequence[Tuple[int, str]]) -> Optional[List[Optional[List[Item]]]]:
    """Return the lists in a column, None for empty cells, or None if it has no lists."""
    parsed: Dict[str, Optional[List[Item]]] = {}
    for line, cell in cells:
        if cell not in parsed:
            try:
                parsed[cell] = parse_list(cell)
            except ValueError as error:
                raise LineError(line, f'the list {cell[:80]!r} {error}. Write it as ["a", "b"] or [1, 0].') from error
    if all(items is None for items in parsed.values()):
        return None
    for line, cell in cells:
        if parsed[cell] is None and not is_no_label(cell):
            if all(items is None or cell_of[0] == '(' for cell_of, items in parsed.items()):
                return None  # names in brackets
            raise LineError(line, f'{cell!r} is not a list, as other cells are. Write it as ["a", "b"] or [1, 0].')
    return [parsed[cell] for _, cell in cells]


def find_multi_hot(
    cells: Sequence[Tuple[int, str]], lists: Sequence[Optional[List[Item]]], class_names: Optional[Sequence[str]]
) -> Optional[List[List[str]]]:
    """Return the numbers of multi-hot lists, None if they are names or ids of classes."""
    full = [(line, [item.value for item in items]) for (line, _), items in zip(cells, lists) if items]
    if not full:
        return None
    line, first = full[0]
    values = {value for _, row in full for value in row}
    if None in map(code_of, values) or (class_names and values <= set(class_names)):
        return None
    odd = next(((line, row) for line, row in full if len(row) != len(first)), None)
    is_repeated = any(len(set(row)) < len(row) for _, row in full)
    if any(item.is_text for items in lists for item in items or ()) and not is_repeated and (odd or len(first) == 1):
        return None  # 1 and 0 in quotes
    if odd:
        if is_repeated:
            problem = f'a list of {len(odd[1])} numbers, expected {len(first)} as on line {line}'
            raise LineError(odd[0], f'{problem}. Correct it.')
        return None
    if len(first) == 1 and not (class_names and len(class_names) == 1):
        raise LineError(
            line,
            f'lists of one number may be a class each, or present and absent of one class. Name the classes with '
            f'--class-map FILE: {first_names(sorted(values))}, or the one class.',
        )
    blank = [''] * len(first)
    return [[item.value for item in items] if items else blank for items in lists]
