"""Class names in the cells of a table."""

import re
from typing import Container, Dict, List, Optional, Sequence, Tuple

from .table_cells import LineError, code_of, is_no_label, is_number
from .table_text import is_image_name

__all__ = ['Labels', 'are_names', 'check_case', 'find_cells', 'find_separator', 'fold', 'name_classes']

Labels = Tuple[int, List[str]]  # line number and names
_SEPARATORS = ('|', ';', ',')  # the first that occurs anywhere
_BETWEEN = ('\t', ':', '&', '+', ' and ', ' or ', ' und ', ' et ', ' y ')  # of names of one rank
_COMBINING = (' ', ',', ';', '|', '/', *_BETWEEN)
_JOINING = ('_', '-')  # parts of ordinary names, too
_RUN = re.compile(r'[^\w\s]+|__+')  # any other signs
_BITS = re.compile(r'[01]([ \t,;|:/_-]?[01])+')


def find_separator(cells: Sequence[Tuple[int, str]], known: Container[str]) -> Optional[str]:
    """Return what separates names in the cells of a column, None if nothing does.

    Args:
        cells: Lines and cells.
        known: Names that may have the sign in them.

    Raises:
        LineError: If some cells have one sign and others another.
    """
    lines = {cell: line for line, cell in reversed(cells) if cell not in known}
    found = [sign for sign in _SEPARATORS if any(sign in cell for cell in lines)]
    for other in found[1:]:
        cells_of_other = [cell for cell in lines if other in cell]
        if not any(found[0] in cell for cell in cells_of_other):
            cell = cells_of_other[-1]
            raise LineError(
                lines[cell],
                f'{cell!r} may be one name, as {found[0]!r} separates names elsewhere, or several. Give '
                f'--label-separator {found[0]!r} for one name, or write {found[0]!r} in place of {other!r}.',
            )
    return found[0] if found else None


def without_fractions(cells: List[Tuple[int, str]], known: Container[str]) -> List[Tuple[int, str]]:
    """Numbers as they were before a program took them for fractions, 7 for 7.0, if all of a column are whole."""
    distinct = {cell for _, cell in cells if not is_no_label(cell)}
    if not distinct or any(cell in known or not re.fullmatch(r'\d+\.0', cell) for cell in distinct):
        return cells
    return [(line, cell.removesuffix('.0')) for line, cell in cells]


def are_names(cell: str, known: Container[str]) -> bool:
    """Tell whether a cell looks like several of other cells, or has what usually separates names."""
    if any(sign in cell for sign in _SEPARATORS):
        return True
    return _separator_of(cell, known) is not None


def _separator_of(name: str, known: Container[str]) -> Optional[str]:
    """Return the sign that divides a name into known ones, None if there is no such."""
    for sign in (*_COMBINING, *_JOINING, *_RUN.findall(name)):
        if sign in name and all(part.strip() in known for part in name.split(sign)):
            return sign
    return None


def _first_lines(labels: Sequence[Labels]) -> Dict[str, int]:
    lines: Dict[str, int] = {}
    for line, names in labels:
        for name in names:
            lines.setdefault(name, line)
    return lines


def _find_combination(names: Sequence[str]) -> Optional[Tuple[str, str]]:
    """Return a name that looks like several names, and what separates them."""
    known = set(names)
    for name in names:
        if separator := _separator_of(name, known):
            return name, separator
    for separator in _COMBINING:
        parts = {name: [part.strip() for part in name.split(separator)] for name in names if separator in name}
        single = {part for of_name in parts.values() for part in of_name}.union(known - parts.keys())
        is_shuffled = len({frozenset(of_name) for of_name in parts.values()}) < len(parts)
        if separator in _BETWEEN:  # the same part in front and behind
            is_shuffled |= not {row[0] for row in parts.values()}.isdisjoint(row[-1] for row in parts.values())
        if len(parts) > 1 and (len(single) < len(known) or is_shuffled):
            return min(parts), separator
    return None


def fold(class_names: Sequence[str]) -> Dict[str, str]:
    """Return class names by what they are in any case.

    Raises:
        ValueError: If two are the same then.
    """
    folded: Dict[str, str] = {}
    for name in class_names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f'--ignore-case: classes {other!r} and {name!r} of the training split or --class-map differ in case '
                'only. Leave out the flag, or have one of them.'
            )
    return folded


def check_case(lines: Dict[str, int], remedy: str = 'Give --ignore-case if they are one class, or rename one.') -> None:
    """Raise a LineError if names differ in case only.

    Args:
        lines: First line of each name.
        remedy: What to do about it.
    """
    by_key: Dict[str, str] = {}
    for name, line in lines.items():
        other = by_key.setdefault(name.casefold(), name)
        if other != name:
            problem = f'class {name!r} and, on line {lines[other]}, class {other!r} differ in case only'
            raise LineError(line, f'{problem}. {remedy}')


def name_classes(labels: Sequence[Labels], separator: Optional[str], ignore_case: bool, is_certain: bool) -> List[str]:
    """Find the classes of a column of names, sorted.

    Args:
        labels: Names of each row. With `ignore_case`, the first spelling of a name stands for all.
        separator: What separated the names.
        ignore_case: Names that differ in case are of one class.
        is_certain: The user said what separates names, or they were in lists.

    Raises:
        LineError: If the names are those of files, or can be read in two ways.
    """
    lines = _first_lines(labels)
    if not ignore_case:
        check_case(lines)
    by_key: Dict[str, str] = {}
    for name in lines:
        by_key.setdefault(name.casefold(), name)
    names = sorted(by_key.values())
    if names and all(map(is_image_name, names)):
        raise LineError(
            min(lines.values()),
            f'label {names[0]!r} is the name of a file. Name the columns of files and '
            'labels with --image-column, --label-columns.',
        )
    codes = {code_of(name) for name in names}
    are_bits = len(set(map(len, names))) == 1 and all(map(_BITS.fullmatch, names))
    are_bits = are_bits and (len(names[0]) > 2 or any(name[0] == '0' for name in names))  # 10 and 11 are numbers
    is_repeated = None not in codes and any(len(set(row)) < len(row) for _, row in labels)
    if is_repeated or (not is_certain and (are_bits or (None not in codes and len(codes) > 1))):
        raise LineError(
            lines[names[0]],
            f'{names} are no class names but 1 and 0 in a cell. Put each into a column of its class, or in brackets as '
            'in [1 0 1]; if they are names, list them in a --class-map FILE.',
        )
    if not is_certain and (found := _find_combination(names)):
        name, sign = found
        parts = [part.strip() for part in name.split(sign)]
        raise LineError(
            lines[name],
            f'{name!r} may be the one class {name!r}, or the {len(parts)} classes {", ".join(map(repr, parts))}, which '
            f'other cells have, too. Give --label-separator {sign!r} for the classes {", ".join(map(repr, parts))}, or '
            f'--label-separator {(separator or "|")!r} to keep {name!r} whole.',
        )
    numbers = [name for name in names if is_number(name)]
    if len(numbers) < len(names) and (odd := min(numbers, default='')) and None not in map(code_of, numbers):
        raise LineError(
            lines[odd],
            f'{odd!r} among names such as {next(name for name in names if name not in numbers)!r} may be a class, or '
            'say that there is none. Leave the cell empty if there is none, or list the classes in a --class-map FILE.',
        )
    return names


def find_cells(labels: Sequence[Labels], class_names: Sequence[str], ignore_case: bool) -> Tuple[List[int], List[int]]:
    """Return rows and columns of the names in a matrix of rows and classes.

    Raises:
        LineError: If a name is not that of a class.
    """
    index = {name: i for i, name in enumerate(class_names)}
    folded = fold(class_names) if ignore_case else {name.casefold(): name for name in class_names}
    rows, columns = [], []
    for row, (line, names) in enumerate(labels):
        for name in names:
            column = index.get(folded.get(name.casefold(), name) if ignore_case else name)
            if column is None:
                raise LineError(line, _describe_unknown(name, index, folded))
            rows.append(row)
            columns.append(column)
    return rows, columns


def _describe_unknown(name: str, index: Dict[str, int], folded: Dict[str, str]) -> str:
    remedy = 'Correct it, or list all classes in a --class-map FILE'
    if name.casefold() in folded:
        remedy = f'{folded[name.casefold()]!r} is: give --ignore-case if they are one class'
    elif is_number(name) and not any(map(is_number, index)):
        remedy += ', or the ids of classes and their names in a --label-names FILE'
    if sign := _separator_of(name, index):
        remedy = f'All of its parts are: give --label-separator {sign!r}'
    return f'class {name!r} is not one of the {len(index)} of the training split or --class-map. {remedy}.'
