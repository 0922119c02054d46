"""Tables with a row for each image and label."""

from typing import Callable, Container, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .table_cells import ABSENT, PRESENT, LineError, code_of, is_no_label
from .table_columns import Columns

__all__ = ['Pairs', 'find_long', 'gather']

# headers of columns, in lower case and without '_'
_OF_LABELS = ('labelname', 'label', 'labels', 'classname', 'class', 'category', 'tag', 'name')
_OF_CONFIDENCE = ('confidence', 'conf', 'score', 'present', 'ispresent', 'exists', 'verified', 'isverified', 'value')


class Long(NamedTuple):
    """Columns of a table with a row for each image and label."""

    label: int
    confidence: Optional[int]  # 1 for a label that is present, 0 for one that is absent


class Pairs(NamedTuple):
    """Verified labels.

    Attributes:
        files: Files, each once.
        lines: First line of each file.
        present: Names of labels that are present, by file.
        absent: Names of labels that are known to be absent, by file.
    """

    files: List[str]
    lines: List[int]
    present: List[List[str]]
    absent: List[List[str]]


def _by_header(columns: Columns, names: Sequence[str], among: Sequence[int]) -> List[int]:
    if columns.header is None:
        return []
    plain = [name.lower().replace('_', '') for name in columns.header]
    return [column for name in names for column in among if plain[column] == name]


def find_long(columns: Columns, is_wanted: bool) -> Optional[Long]:
    """Return the columns of a table with a row for each image and label, None for a table of another form.

    Args:
        columns: Parts of the table.
        is_wanted: The user says that it has this form.

    Raises:
        LineError: If it has this form, but it is not clear which column has the labels.
    """
    confidence = next(iter(_by_header(columns, _OF_CONFIDENCE, range(len(columns.header or ())))), None)
    labels = [column for column in columns.labels if column != confidence]
    named = _by_header(columns, _OF_LABELS, labels)
    if len(labels) > 1 and named:
        labels = named[:1]
    if not is_wanted:
        cells = {row[labels[0]] for _, row in columns.rows}
        is_repeated = len({row[columns.image] for _, row in columns.rows}) < len(columns.rows)
        if confidence is None or not named:
            is_single = all(map(_is_single, cells)) and not all(map(is_no_label, cells))
            if len(columns.labels) > 1 or not is_single or not is_repeated:
                return None
        elif None not in map(code_of, cells):  # two classes of these names
            return None
        elif not is_repeated and (several := sorted(filter(_is_several, cells))):
            if confidence not in columns.labels:  # the user named the column of labels
                return None
            line = next(line for line, row in columns.rows if row[labels[0]] == several[0])
            label, more = columns.name(labels[0]), columns.name(confidence)
            raise LineError(
                line,
                f'{several[0]!r} may be several names, in a row for each image, or one, in a row for each image and '
                f'label, of which column {more} says whether it is present. Give --label-column {label} for the '
                'former, --table-format long for the latter.',
            )
    if len(labels) != 1:
        shown = ', '.join(map(columns.name, labels))
        raise LineError(
            columns.rows[0][0], f'the names of labels may be in any column of {shown}. Give --label-column.'
        )
    return Long(labels[0], confidence)


def _is_several(cell: str) -> bool:
    return any(sign in cell for sign in '|;[')


def _is_single(cell: str) -> bool:
    return is_no_label(cell) or (not _is_several(cell) and ',' not in cell and code_of(cell) is None)


def check_single(cells: Sequence[Tuple[int, str]], known: Container[str]) -> None:
    """Raise a LineError if a cell of one label may be several names."""
    for cell, line in {cell: line for line, cell in reversed(cells)}.items():
        if _is_several(cell) and cell not in known:
            sign = next(sign for sign in '|;[' if sign in cell)
            raise LineError(
                line,
                f'{cell!r} may be one name or several. Give --label-separator {sign!r} for several, '
                "--label-separator '' for one.",
            )


def gather(columns: Columns, long: Long, labels: Sequence[str], read_names: Callable[[int, str], List[str]]) -> Pairs:
    """Gather the rows of each file.

    Args:
        columns: Parts of the table, with the rows to gather.
        long: Columns of labels.
        labels: Cell of labels of each row.
        read_names: Turns line number and cell of labels into a list of names, of none or one.

    Raises:
        LineError: If the confidence of a label is neither 1 nor 0, or a label is both.
    """
    number: Dict[str, int] = {}
    seen: Dict[Tuple[int, str], Tuple[int, int]] = {}
    pairs = Pairs([], [], [], [])
    names_of: Dict[str, List[str]] = {}
    for (line, row), label in zip(columns.rows, labels):
        file = row[columns.image]
        if file not in number:
            number[file] = len(number)
            for values, first in zip(pairs, (file, line, [], [])):
                values.append(first)
        code = PRESENT if long.confidence is None else code_of(row[long.confidence])
        if code not in (PRESENT, ABSENT):
            problem = f'column {columns.name(long.confidence)} has {row[long.confidence]!r}, expected 1 or 0'
            raise LineError(line, f'{problem}: present or absent. Leave out or round what a machine guessed.')
        if label not in names_of:
            names_of[label] = read_names(line, label)
        for name in names_of[label]:
            before, first = seen.setdefault((number[file], name), (code, line))
            if before != code:
                raise LineError(line, f'{name!r} of {file!r} is both present and absent, see line {first}. Correct it.')
            if first == line:
                (pairs.present if code == PRESENT else pairs.absent)[number[file]].append(name)
    return pairs
