"""Classes and targets of a table, from its columns of labels."""

from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ...class_names import clean_name, find_problem
from .base import first_names
from .table_cells import (
    ABSENT,
    BLANK,
    MINUS,
    NAN,
    PRESENT,
    LineError,
    Meaning,
    check_meaning,
    code_of,
    decide,
    describe,
    is_no_label,
    present_marks,
)
from .table_columns import Columns
from .table_lists import Item, find_multi_hot, parse_lists
from .table_long import Long, check_single, gather
from .table_names import (
    are_names,
    check_case,
    find_cells,
    find_separator,
    fold,
    name_classes,
    without_fractions,
)

__all__ = ['ClassParser', 'Understood']


class Understood(NamedTuple):
    """Targets (N, L) int8, their classes, and how the table was understood, in a sentence each."""

    targets: np.ndarray
    class_names: List[str]
    meaning: Meaning
    notes: List[str]


class ClassParser(NamedTuple):
    """Turns columns of labels into targets.

    Attributes:
        class_names: Classes in the order wanted, None to take those of the table.
        drop_empty: Further classes come after these, for the caller to leave out those that no image has.
        separator: What separates names in a cell, '' if nothing does, None to find it.
        ignore_case: Names that differ in case only are of one class.
        names_by_id: Names of the ids that the table has in their place.
        unknown: If given, -1 and empty cells of a column of a class are unknown.
        training: How the table of the training split was understood.
    """

    class_names: Optional[List[str]]
    drop_empty: bool
    separator: Optional[str]
    ignore_case: bool
    names_by_id: Optional[Dict[str, str]]
    unknown: Optional[str]
    training: Meaning

    def read_wide(self, columns: Columns, kept: Sequence[bool]) -> Understood:
        """Read a table with a row for each image.

        Args:
            columns: Parts of the table.
            kept: Rows of this split. What cells mean is decided on all rows.
        """
        if len(columns.labels) > 1:
            return self._read_columns(columns, kept)
        column = columns.labels[0]
        cells = without_fractions([(line, row[column]) for line, row in columns.rows], self._known)
        if self._is_class(cells):
            return self._read_columns(columns, kept)
        lists = parse_lists(cells)
        if lists is not None:
            hot = find_multi_hot(cells, lists, self.class_names)
            if hot is not None:
                understood = self._read_codes(hot, kept, self.class_names, columns.rows)
                return understood._replace(notes=['Lists have a number for each class.', *understood.notes])
        return self._read_names(cells, lists, kept)

    def read_long(
        self, columns: Columns, chosen: Columns, long: Long, unlisted: Optional[str]
    ) -> Tuple[List[int], List[str], Understood]:
        """Read a table with a row for each image and label.

        Args:
            columns: Parts of the table, with all rows.
            chosen: The same, with the rows of this split.
            long: Columns of labels.
            unlisted: What a label without a row is: 'unknown' or 'absent', None to decide.

        Returns:
            First lines and names of the files, and the rest.
        """
        cells = [(line, row[long.label]) for line, row in chosen.rows]
        if self.separator is None:
            check_single(cells, self._known)
        pairs = gather(chosen, long, [cell for _, cell in without_fractions(cells, self._known)], self._split)
        has_absent = long.confidence is not None and ABSENT in map(
            code_of, {row[long.confidence] for _, row in columns.rows}
        )
        usual = 'unknown' if has_absent else 'absent'
        state = unlisted or self.training.unlisted or usual
        if not unlisted and state != usual:
            raise ValueError(
                f'a label without a row is {state} in the training split, but {usual} in this one, as it has '
                f'{"some" if has_absent else "no"} labels of confidence 0. Decide with --unlisted for both.'
            )
        present, absent = ([*zip(pairs.lines, names)] for names in (pairs.present, pairs.absent))
        names = self.class_names or name_classes(
            present + absent, self.separator, self.ignore_case, is_certain=self.separator is not None
        )
        if self.drop_empty and self.class_names:
            known = {name.casefold() if self.ignore_case else name for name in names}
            others = sorted({name for _, labels in absent for name in labels})
            names = names + [name for name in others if (name.casefold() if self.ignore_case else name) not in known]
        shape = len(pairs.files), len(names)
        targets = np.full(shape, -1 if state == 'unknown' else 0, dtype=np.int8)
        for value, labels in enumerate((absent, present)):
            targets[find_cells(labels, names, self.ignore_case)] = value
        reason = f', as {"some" if has_absent else "no"} rows have confidence 0'
        if unlisted or self.training.unlisted:
            reason = ' by --unlisted' if unlisted else ', as in the training split'
        notes = [
            f'A row for each image and label: {len(chosen.rows)} rows of {len(pairs.files)} images; a label without a '
            f'row is {state}{reason}.'
        ]
        return pairs.lines, pairs.files, Understood(targets, names, self.training._replace(unlisted=state), notes)

    def _is_class(self, cells: Sequence[Tuple[int, str]]) -> bool:
        """Tell whether a single column says of one class where it is, rather than to have names."""
        codes = {cell: code_of(cell) for _, cell in cells}
        marks = {cell for cell, code in codes.items() if code in (PRESENT, ABSENT, MINUS)}
        if not marks:
            return False
        if self._known and marks <= self._known:
            return False
        if self.separator and any(self.separator in cell for cell in codes):
            return False
        if None not in codes.values():  # x and y are two names
            return set(codes.values()) & {ABSENT, MINUS} != set() or len(present_marks(codes)) == 1
        found = {codes[cell] for cell in marks}
        if len(found) == 1 or any(cell in self._known for cell, code in codes.items() if code is None):
            return False
        line, cell = next((line, cell) for line, cell in cells if codes[cell] is None)
        if any(cell.startswith('[') or are_names(cell, codes) for cell, code in codes.items() if code is None):
            return False
        remedy = 'names of classes, list these in a --class-map FILE'
        if self.class_names:
            remedy = 'ids of classes, give their names in a --label-names FILE'
        raise LineError(
            line,
            f'{cell!r} is neither present nor absent, as {first_names(sorted(marks))} of other lines are. Correct it, '
            f'or, if all of them are {remedy}.',
        )

    def _read_columns(self, columns: Columns, kept: Sequence[bool]) -> Understood:
        """Read a column for each class."""
        if self.separator is not None:
            raise ValueError(
                f'--label-separator {self.separator!r} is for several names in a cell, but there is a column for each '
                'class. Leave it out.'
            )
        names = self.class_names
        if columns.header is not None:
            names = self._by_id(1, [clean_name(columns.header[column]) for column in columns.labels])
            if self.ignore_case and self.class_names is not None:
                known = fold(self.class_names)
                names = [known.get(name.casefold(), name) for name in names]
            if problem := find_problem(names):
                raise LineError(
                    1, f'the header {problem}. Give each column of labels its name, or list these in --label-columns.'
                )
            check_case(dict.fromkeys(names, 1), 'Rename one, or make one column of them.')
        if names is None:
            raise LineError(1, 'no header. Add one with the class names, or give them with --class-map FILE.')
        if len(names) != len(columns.labels):
            problem = f'columns of labels: {len(columns.labels)}, class names: {len(names)}'
            raise LineError(1, f'{problem}. Give one name for each column with --class-map FILE.')
        if not self.drop_empty and (odd := set(names) - set(self.class_names or names)):
            problem = (
                f'class {min(odd)!r} of the header is not one of the {len(self.class_names)} of the training split'
            )
            raise LineError(1, f'{problem} or --class-map. Correct it, or leave the column out with --label-columns.')
        first, last = columns.labels[0], columns.labels[-1]
        if columns.labels == list(range(first, last + 1)):  # a slice is faster
            rows = [row[first : last + 1] for _, row in columns.rows]
        else:
            rows = [[row[column] for column in columns.labels] for _, row in columns.rows]
        codes = {cell: code_of(cell) for cell in set().union(*rows)}
        if None in codes.values():
            raise _odd_cell(columns, codes)
        understood = self._read_codes(rows, kept, names, columns.rows)
        return understood._replace(notes=['There is a column for each class.', *understood.notes])

    def _read_codes(
        self,
        rows: List[List[str]],
        kept: Sequence[bool],
        names: Optional[List[str]],
        lines: Sequence[Tuple[int, List[str]]],
    ) -> Understood:
        """Turn cells of one class each into targets."""
        if names is None:
            raise LineError(
                lines[0][0], f'lists of {len(rows[0])} numbers, without names. Give them with --class-map FILE.'
            )
        if len(rows[0]) != len(names):
            problem = f'lists of {len(rows[0])} numbers, class names: {len(names)}'
            raise LineError(lines[0][0], f'{problem}. Give one name for each number with --class-map FILE.')
        cells = set().union(*rows)
        mine = decide(cells, self.unknown is not None)
        meaning = mine if self.unknown is not None else check_meaning(mine, self.training, cells)
        states = {'absent': 0, 'unknown': -1, None: -1}
        values = {PRESENT: 1, ABSENT: 0, NAN: -1, MINUS: states[meaning.minus], BLANK: states[meaning.blank]}
        of_cell = {cell: values[code_of(cell)] for cell in cells}
        targets = np.array([[of_cell[cell] for cell in row] for row, keep in zip(rows, kept) if keep], dtype=np.int8)
        if self.class_names:
            column = {name: i for i, name in enumerate(names)}
            names = [name for name in dict.fromkeys((*self.class_names, *names)) if name in column]
            targets = targets[:, [column[name] for name in names]]
        return Understood(targets, names, meaning, describe(meaning, cells, self.training, self.unknown))

    @property
    def _known(self) -> FrozenSet[str]:
        """Names that cells may have as they are."""
        return frozenset(self.class_names or ()).union(self.names_by_id or ())

    def _names(self, line: int, parts: Iterable[str]) -> List[str]:
        """Names of classes in the parts of a cell, by their ids if there is a table of names."""
        names = [clean_name(part) for part in parts]
        names = [name for name in names if name and (not is_no_label(name) or name in (self.class_names or ()))]
        return self._by_id(line, names)

    def _by_id(self, line: int, names: List[str]) -> List[str]:
        if self.names_by_id is None:
            return names
        for name in names:
            if name not in self.names_by_id:
                raise LineError(line, f'id {name!r} has no name, or one that another id has, in --label-names. Add it.')
        return [self.names_by_id[name] for name in names]

    def _split(self, line: int, cell: str) -> List[str]:
        return self._names(line, cell.split(self.separator) if self.separator else [cell])

    def _read_names(
        self, cells: Sequence[Tuple[int, str]], lists: Optional[Sequence[Optional[List[Item]]]], kept: Sequence[bool]
    ) -> Understood:
        """Read a column of names."""
        separator = self.training.separator if self.separator is None else self.separator
        if separator is None and lists is None:
            separator = find_separator(cells, self._known)
        if lists is not None:
            labels = [
                (line, self._names(line, [item.value for item in items or ()]))
                for (line, _), items in zip(cells, lists)
            ]
        else:
            memo: Dict[str, List[str]] = {}
            whole = set(self.class_names or ())  # a name may have the separator in it
            for line, cell in cells:
                if cell not in memo:
                    memo[cell] = self._names(
                        line, cell.split(separator) if separator and clean_name(cell) not in whole else [cell]
                    )
            labels = [(line, memo[cell]) for line, cell in cells]
        labels = [row for row, keep in zip(labels, kept) if keep]
        is_certain = lists is not None or self.separator is not None
        names = self.class_names or name_classes(labels, separator, self.ignore_case, is_certain)
        targets = np.zeros((len(labels), len(names)), dtype=np.int8)
        targets[find_cells(labels, names, self.ignore_case)] = 1
        if lists is not None:
            notes = ['Names are in lists.']
        else:
            notes = [f'Names are separated by {separator!r}.' if separator else 'Each cell is one name.']
        if words := sorted({cell for _, cell in cells if cell and is_no_label(cell)} - set(names)):
            notes.append(f'Cells of {first_names(words)} have no label.')
        return Understood(targets, names, self.training._replace(separator=separator), notes)


def _odd_cell(columns: Columns, codes: Dict[str, Optional[int]]) -> LineError:
    line, column, cell = next(
        (line, column, row[column])
        for line, row in columns.rows
        for column in columns.labels
        if codes[row[column]] is None
    )
    problem = f'column {column + 1} has {cell!r}, expected 1 or 0, yes or no, x or nothing, -1 or nan'
    remedy = 'Correct it, name the columns of labels with --label-columns'
    if columns.header:
        remedy += f' (of {first_names(columns.header)})'
    return LineError(line, f'{problem}. {remedy}, or put class names into one cell, as in a|b.')
