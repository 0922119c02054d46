"""Reader of labels in csv and tsv tables."""

from collections import Counter
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from ...class_names import check_names, clean_name
from .base import LabelReader
from .names import ImageFolder
from .table_cells import LineError, Meaning
from .table_classes import ClassParser
from .table_columns import Columns, check_header, check_labels, find_columns, find_rows
from .table_long import find_long
from .table_text import DELIMITERS, Row, decode_table, read_rows

__all__ = ['TABLE_OPTIONS', 'CsvReader']

# arguments of the reader that a user gives, the same for all splits
TABLE_OPTIONS = ('image_column', 'label_columns', 'label_separator', 'ignore_case', 'table_format', 'unlisted')
TABLE_OPTIONS += ('label_names', 'encoding', 'group_column')


class CsvReader(LabelReader):
    """Images and labels from a table, its cells separated by commas or tabs, else by semicolons, else by blanks.

    Either there is a column for each class: 1 if it is in the image, 0 if not, -1 or empty if unknown.

        file,cat,dog
        a.jpg,1,0
        more/b.jpg,,1

    `1.0`, `+1`, `true`, `yes` and `x` are 1; `0.0`, `false` and `no` are 0, in any case; `nan` is unknown. In a table
    without any 0, empty cell or nan, -1 means absent. In a table with one mark, such as x, and empty cells only, an
    empty cell means absent.

    Or there is one column of class names, separated by '|', else by ';', else by ',' (in quotes, if commas also
    separate the cells), or in a list as Python, JSON or numpy print it, which may also be multi-hot. An empty cell is
    an image without labels.

        file,labels
        a.jpg,cat
        more/b.jpg,cat|dog
        c.jpg,

    Or there is a row for each image and label, with a column of confidence 1 (present) or 0 (absent) or without.

        ImageID,LabelName,Confidence
        a.jpg,cat,1
        a.jpg,dog,0

    A column that holds image files is found wherever it stands, else the files are in the first column. A first line
    without an image file is a header; file names without extension need one. Classes are in column order, or sorted.

    Args:
        table: Text file.
        images: Folder that the file names start from.
        class_names: Classes in the order wanted. Columns without a header and multi-hot lists need them.
        image_column: Name of the column of files.
        label_columns: Names of the columns of labels (default: all others), in a list or separated by commas.
        label_separator: What separates names in a cell, '' if nothing does.
        ignore_case: Names that differ in case only are of one class.
        where: COLUMN=VALUE that the rows of this split have.
        table_format: 'long' for a row for each image and label, 'wide' for one for each image (default: as it looks).
        unlisted: In a long table, what a label without a row is: 'unknown' (default if a confidence is 0) or 'absent'.
        label_names: Table of two columns, id and name, if the table has ids in place of names.
        encoding: Of the text (default: by its byte order mark, else UTF-8). Also of `label_names` if it is not UTF-8.
        drop_unlabelled: Leave out images without a label.
        drop_empty: Let the table have further classes, after `class_names`, if it says of no image that it has them.
        group_column: Name of a column that has no label but a group, such as a patient ('' for none).
        unknown: What is done about unknown labels elsewhere. If given, -1 and empty cells of columns are unknown.
        meaning: How the table of the training split was understood, which this one must not contradict.

    Attributes:
        meaning: How the table was understood.
        groups: (N,) group of each image, if there is such a column.

    Raises:
        FileNotFoundError: If there is no such table or folder.
        ValueError: If the table is malformed, or can be read in two ways. The message names file and line.
    """

    def __init__(
        self,
        table: Union[str, Path],
        images: Union[str, Path],
        class_names: Optional[Sequence[str]] = None,
        *,
        image_column: Optional[str] = None,
        label_columns: Union[None, str, Sequence[str]] = None,
        label_separator: Optional[str] = None,
        ignore_case: bool = False,
        where: Optional[str] = None,
        table_format: Optional[str] = None,
        unlisted: Optional[str] = None,
        label_names: Union[None, str, Path] = None,
        encoding: Optional[str] = None,
        drop_unlabelled: bool = False,
        drop_empty: bool = False,
        group_column: Optional[str] = None,
        unknown: Optional[str] = None,
        meaning: Optional[Meaning] = None,
    ):
        if not Path(table).is_file():
            raise FileNotFoundError(f'Table {str(table)!r} does not exist.')
        if not Path(images).is_dir():
            raise FileNotFoundError(f'Image folder {str(images)!r} does not exist.')
        names = None if class_names is None else check_names(class_names, table)
        ids = None if label_names is None else _read_ids(label_names, encoding)
        training = meaning or Meaning()
        separator = None if label_separator is None else label_separator.replace('\\t', '\t')  # as a shell has it
        parser = ClassParser(names, drop_empty, separator, ignore_case, ids, unknown, training)
        folder = ImageFolder(images)
        try:
            rows, delimiter = read_rows(decode_table(Path(table).read_bytes(), encoding))
            condition = None if where is None else _split_condition(where)
            others = {} if condition is None else {'COLUMN of --where': condition[0]}
            if group_column:
                others['--group-column'] = group_column
            columns = find_columns(rows, image_column, label_columns, others)
            if not (image_column or label_columns or others):
                check_header(rows[0], columns, folder)
            kept = [True] * len(columns.rows) if condition is None else find_rows(columns, *condition)
            notes = [
                f'Cells are separated by {DELIMITERS[delimiter]}, files are in column {columns.name(columns.image)}.'
            ]
            if condition is not None:
                notes.append(f'{sum(kept)} of {len(kept)} rows have {where}.')
            chosen = columns._replace(rows=[row for row, keep in zip(columns.rows, kept) if keep])
            is_long = table_format == 'long' or training.unlisted is not None
            long = None if table_format == 'wide' else find_long(chosen, is_long)
            if unlisted and not long:
                raise ValueError(
                    '--unlisted is for a row for each image and label: if it has that, give --table-format long.'
                )
            if long:
                lines, files, understood = parser.read_long(columns, chosen, long, unlisted)
            else:
                lines, files = zip(*((line, row[columns.image]) for line, row in chosen.rows))
                understood = parser.read_wide(columns, kept)
                if label_columns is None:
                    check_labels(columns, names or ())
            files = _read_files([*zip(lines, files)], folder)
            groups = None if not group_column else _read_groups(columns, chosen.rows, group_column, len(files))
        except LineError as error:
            raise ValueError(f'{str(table)!r}, line {error.args[0]}: {error.args[1]}') from error
        except ValueError as error:
            raise ValueError(f'{str(table)!r}: {error}') from error
        targets, names, meaning, more = understood
        self.meaning: Meaning = meaning._replace(unknown=unknown)
        notes += more
        labelled = (targets != 0 if unknown == 'positive' else targets > 0).any(axis=1) if drop_unlabelled else None
        if drop_unlabelled and (dropped := len(files) - int(labelled.sum())):
            notes.append(f'{dropped} images without a label are left out.')
        super().__init__(images, files, targets, names, table, keep=labelled)
        self.notes[:0] = notes
        if groups is not None:
            self.groups: np.ndarray = groups if labelled is None else groups[labelled]


def _split_condition(where: str) -> Tuple[str, str]:
    name, sign, value = (part.strip() for part in where.partition('='))
    if not sign or not name:
        raise ValueError(f'--where {where!r} is not of the form COLUMN=VALUE, such as split=train.')
    return name, value


def _read_ids(table: Union[str, Path], encoding: Optional[str]) -> Dict[str, str]:
    """Read a table of ids and names, without names that several ids have.

    It may be in another encoding than the table of labels: UTF-8 goes first.
    """
    if not Path(table).is_file():
        raise FileNotFoundError(f'Table of label names {str(table)!r} does not exist.')
    names: Dict[str, str] = {}
    data = Path(table).read_bytes()
    try:
        try:
            text = decode_table(data)
        except LineError:
            if encoding is None:
                raise
            text = decode_table(data, encoding)
        for line, row in read_rows(text)[0]:
            if len(row) != 2 or not all(row):
                raise LineError(line, f'{[*row]} are not an id and a name. Give a table of these two.')
            key, name = map(clean_name, row)
            if names.setdefault(key, name) != name:
                raise LineError(line, f'id {key!r} has another name on a line above, {names[key]!r}. Correct it.')
    except LineError as error:
        raise ValueError(f'{str(table)!r}, line {error.args[0]}: {error.args[1]}') from error
    counts = Counter(names.values())
    return {key: name for key, name in names.items() if counts[name] == 1}


def _read_files(cells: Sequence[Tuple[int, str]], folder: ImageFolder) -> List[str]:
    lines: Dict[str, int] = {}
    for line, name in cells:
        try:
            name = folder.place(name)  # ./a.jpg is a.jpg
        except ValueError as error:
            raise LineError(line, str(error)) from error
        if name in lines:
            raise LineError(
                line,
                f'{name!r} is also on line {lines[name]}. Put all labels of a file on one line, or give '
                '--table-format long if each line has one.',
            )
        lines[name] = line
    return list(lines)


def _read_groups(columns: Columns, rows: Sequence[Row], name: str, files: int) -> np.ndarray:
    column = columns.header.index(name)
    for line, row in rows:
        if not row[column]:
            raise LineError(line, f'no group in column {name!r}. Give each image one, its own if it is alone.')
    groups = {row[columns.image]: row[column] for _, row in rows}  # a long table has rows of the same image
    if len(groups) != files or any(groups[row[columns.image]] != row[column] for _, row in rows):
        raise ValueError(f'rows of the same image differ in column {name!r} of --group-column. Correct it.')
    return np.array([*groups.values()])
