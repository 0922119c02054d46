"""What a cell of a table says about a class: present, absent, or nothing, in all spellings."""

from functools import lru_cache
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

__all__ = ['ABSENT', 'BLANK', 'MINUS', 'NAN', 'PRESENT', 'LineError', 'Meaning', 'check_meaning']
__all__ += ['code_of', 'decide', 'describe', 'is_no_label', 'is_number', 'present_marks']

PRESENT, ABSENT, MINUS, BLANK, NAN = 1, 0, -1, -2, -3  # codes of cells

_WORDS = {
    **dict.fromkeys(('true', 't', 'yes', 'y', 'x', 'on', 'present', 'positive', '✓', '✔', '☑'), PRESENT),
    **dict.fromkeys(('false', 'f', 'no', 'n', 'off', 'absent', 'negative', '☐'), ABSENT),
}
_NO_LABEL = {'', '?', 'n.a.', 'nan', 'none', 'null', 'na', 'n/a', '#n/a', '<na>'}
_DASHES = '-\u2010\u2011\u2012\u2013\u2014\u2212'


class LineError(Exception):
    """Line number and problem."""


def is_no_label(cell: str) -> bool:
    """Tell whether a cell is what programs write where there is nothing."""
    return cell.lower() in _NO_LABEL or not cell.strip(_DASHES)


def _number(cell: str) -> Optional[float]:
    text = cell.replace('\u2212', '-')  # a typographic minus
    try:
        return float(text) if text.isascii() and '_' not in text else None
    except ValueError:
        return None


def is_number(cell: str) -> bool:
    """Tell whether a cell is a number."""
    return _number(cell) is not None and not is_no_label(cell)


@lru_cache(maxsize=1 << 14)
def code_of(cell: str) -> Optional[int]:
    """Return the code of a cell, None if it says neither present nor absent nor nothing."""
    if is_no_label(cell):
        return NAN if cell else BLANK
    number = _number(cell)
    return _WORDS.get(cell.lower()) if number is None else {1: PRESENT, 0: ABSENT, -1: MINUS}.get(number)


class Meaning(NamedTuple):
    """What the table of the training split was taken to mean; other splits are read in the same way.

    None stands for what that table did not decide.

    Attributes:
        minus: What -1 means: 'absent' or 'unknown'.
        blank: What an empty cell means in a column of a class, likewise.
        unlisted: What a label without a row means in a table with a row for each image and label, likewise.
        separator: What separates names in a cell.
        unknown: `--unknown-labels`, if it was given; then it holds in evaluation, too.
    """

    minus: Optional[str] = None
    blank: Optional[str] = None
    unlisted: Optional[str] = None
    separator: Optional[str] = None
    unknown: Optional[str] = None

    @classmethod
    def from_record(cls, record: Any) -> 'Meaning':
        """Read what `to_record` wrote into a checkpoint.

        Raises:
            ValueError: If it is anything else.
        """
        allowed = dict.fromkeys(('minus', 'blank', 'unlisted'), (None, 'absent', 'unknown'))
        allowed['unknown'] = (None, 'ignore', 'positive', 'negative')
        values = {name: record.get(name) for name in cls._fields} if isinstance(record, dict) else {'minus': 0}
        if any(
            value is not None and (not isinstance(value, str) or value not in allowed.get(name, [value]))
            for name, value in values.items()
        ):
            raise ValueError('What the checkpoint says of the table it was trained on is damaged: take another one.')
        return cls(**values)

    def to_record(self) -> Dict[str, Optional[str]]:
        """Return it as a checkpoint keeps it."""
        return self._asdict()


def decide(cells: Iterable[str], is_overruled: bool = False) -> Meaning:
    """Decide from all distinct cells of a table what -1 and empty cells mean.

    Args:
        cells: Cells, each with a code.
        is_overruled: Both mean 'unknown', whatever else there is.
    """
    codes, marks = _summarise(cells)
    if is_overruled:
        return Meaning('unknown', 'unknown')
    minus = blank = None
    if codes == {PRESENT, MINUS}:
        minus = 'absent'
    elif codes - {PRESENT, MINUS} - ({BLANK} if MINUS not in codes else set()):
        minus = 'unknown'
    if codes - {PRESENT, BLANK} or len(marks) > 1:
        blank = 'unknown'
    elif BLANK in codes and marks:
        blank = 'absent'
    return Meaning(minus, blank)


def _summarise(cells: Iterable[str]) -> Tuple[Set[Optional[int]], Set[str]]:
    """Codes of cells, and the different spellings of 'present'."""
    cells = set(cells)
    return {code_of(cell) for cell in cells}, present_marks(cells)


def present_marks(cells: Iterable[str]) -> Set[str]:
    """Return the different spellings of 'present' in cells, of numbers '1'."""
    return {cell.lower() if _number(cell) is None else '1' for cell in cells if code_of(cell) == PRESENT}


def check_meaning(mine: Meaning, training: Meaning, cells: Iterable[str]) -> Meaning:
    """Return the meaning of the training split for a split with these cells.

    Raises:
        ValueError: If the split alone would be read otherwise.
    """
    codes, _ = _summarise(cells)
    differs = dict(minus='-1', blank='an empty cell')
    if BLANK not in codes:
        del differs['blank']
    for name, what in differs.items():
        here, there = getattr(mine, name), getattr(training, name)
        if here and there and here != there:
            raise ValueError(
                f'{what} means {there} in the training split, but {here} in this one by its values, '
                f'{_describe(codes)}. Write both alike, or decide with --unknown-labels.'
            )
    return training._replace(minus=training.minus or mine.minus, blank=training.blank or mine.blank)


def _describe(codes: Set[Optional[int]]) -> str:
    names = {PRESENT: '1', ABSENT: '0', MINUS: '-1', NAN: 'nan', BLANK: 'nothing'}
    return ', '.join(name for code, name in names.items() if code in codes)


def describe(meaning: Meaning, cells: Iterable[str], training: Meaning, unknown: Optional[str]) -> List[str]:
    """Say what -1, empty cells and nan mean, a sentence each.

    Args:
        meaning: What they mean.
        cells: All distinct cells of the table.
        training: What they mean in the table of the training split.
        unknown: `--unknown-labels`, if it was given.
    """
    codes = {code_of(cell) for cell in cells}
    marks = sorted(present_marks(cells))
    why = {
        ('minus', 'absent'): 'as there is no 0 and no empty cell',
        ('blank', 'absent'): f'as {" or ".join(map(repr, marks))} is the only other value',
    }
    notes = []
    for name, code, what in (('minus', MINUS, '-1'), ('blank', BLANK, 'An empty cell')):
        if code in codes:
            state = getattr(meaning, name) or 'unknown'
            reason = why.get((name, state), '')
            if unknown is not None:
                reason = f'by --unknown-labels {unknown}'
            elif getattr(training, name):
                reason = 'as in the training split'
            notes.append(f'{what} means {state}{", " + reason if reason else ""}.')
    if NAN in codes:
        written = sorted(cell for cell in cells if code_of(cell) == NAN)
        notes.append(f'Cells of {", ".join(map(repr, written))} mean unknown.')
    return notes
