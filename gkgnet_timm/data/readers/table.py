"""Reader of labels in csv and tsv tables."""

import csv
import io
from pathlib import Path, PurePosixPath
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from timm.data import is_img_extension

from ...class_names import check_names
from .base import LabelReader
from .names import ImageFolder

__all__ = ['CsvReader']

_TARGETS = {'1': 1, '0': 0, '-1': -1, '': -1}
_Rows = List[Tuple[int, List[str]]]  # line number and cells
_Names = Optional[List[str]]


class _LineError(Exception):
    """Line number and problem."""


class CsvReader(LabelReader):
    """Images and labels from a UTF-8 table, separated by commas or tabs, with file names in the first column.

    Either there is a column for each class: 1 if it is in the image, 0 if not, -1 or empty if unknown.

        file,cat,dog
        a.jpg,1,0
        more/b.jpg,,1

    Or there are two columns, with class names in the second, separated by '|', else by ';', else by ',' (in quotes, if
    commas also separate the cells). An empty cell is an image without labels.

        file,labels
        a.jpg,cat
        more/b.jpg,cat|dog
        c.jpg,

    A table of two columns with only 1, 0 and -1 in the second has the first form. A first line that does not start with
    an image file is a header; file names without extension need one. Classes are in column order, or sorted.

    Args:
        table: Text file.
        images: Folder that the file names start from.
        class_names: Classes in the order wanted. The first form needs them if it has no header.
        group_column: Column, by its name in the header, that has no label but a group, such as a patient.

    Attributes:
        groups: (N,) group of each image, if there is such a column.

    Raises:
        FileNotFoundError: If there is no such table or folder.
        ValueError: If the table is malformed. The message names file and line.
    """

    def __init__(
        self,
        table: Union[str, Path],
        images: Union[str, Path],
        class_names: Optional[Sequence[str]] = None,
        group_column: Optional[str] = None,
    ):
        if not Path(table).is_file():
            raise FileNotFoundError(f'Table {str(table)!r} does not exist.')
        if not Path(images).is_dir():
            raise FileNotFoundError(f'Image folder {str(images)!r} does not exist.')
        names = None if class_names is None else check_names(class_names, table)
        try:
            rows = _read_rows(Path(table).read_bytes())
            if group_column is not None:
                rows, group_of_line = _take_column(rows, group_column)
                self.groups = np.array([group_of_line[line] for line, _ in rows[1:]])
            header = rows.pop(0)[1][1:] if _has_header(rows) else None
            files = _read_files(rows, ImageFolder(images))
            cells = [(line, row[1:]) for line, row in rows]
            values = {value for _, row in cells for value in row}
            if len(cells[0][1]) > 1 or (values <= _TARGETS.keys() and values != {''}):
                targets, names = _read_columns(cells, header and check_names(header, table), names)
            else:
                targets, names = _read_labels(cells, names)
        except _LineError as error:
            raise ValueError(f'{str(table)!r}, line {error.args[0]}: {error.args[1]}') from error
        super().__init__(images, files, targets, names, table)


def _read_rows(data: bytes) -> _Rows:
    try:
        text = data.decode().removeprefix('\ufeff')
    except UnicodeDecodeError as error:
        raise _LineError(data.count(b'\n', 0, error.start) + 1, 'not in UTF-8. Save the table in UTF-8.') from error
    delimiter = '\t' if '\t' in text.strip().partition('\n')[0] else ','
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            row = [cell.strip() for cell in row]
            if any(row):  # not a blank line
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise _LineError(line, f'not csv ({error}). Check the quotes.') from error
    for line, row in rows:
        if len(row) != (expected := max(2, len(rows[0][1]))):
            problem = f'cells separated by commas or tabs: {len(row)}, expected {expected} as in the first line'
            raise _LineError(line, f'{problem}. Quote a cell that has a comma in it.')
    if not rows[_has_header(rows) :]:
        raise _LineError(line, 'the table has no images. Give a file name and its labels on each line.')
    return rows


def _take_column(rows: _Rows, name: str) -> Tuple[_Rows, Dict[int, str]]:
    """Return the rows without a column, and its cells by line number."""
    header = rows[0][1] if _has_header(rows) else []
    if header.count(name) != 1:
        found = ', '.join(map(repr, header)) or 'no header'
        raise _LineError(1, f'one column {name!r} is expected for --group-column, there is {found}. Correct its name.')
    if len(header) < 3:
        raise _LineError(1, f'no column of labels beside that of the files and {name!r}. Add one.')
    column = header.index(name)
    cells = {line: row[column] for line, row in rows[1:]}
    for line, group in cells.items():
        if not group:
            raise _LineError(line, f'no group in column {name!r}. Give each image one, its own if it is alone.')
    return [(line, row[:column] + row[column + 1 :]) for line, row in rows], cells


def _has_header(rows: _Rows) -> bool:
    suffixes = [PurePosixPath(row[0]).suffix.lower() for _, row in rows[:2]]
    if not suffixes or is_img_extension(suffixes[0]):
        return False
    return not suffixes[0] or suffixes[0] not in suffixes[1:]  # all files may have a format that timm does not list


def _read_files(rows: _Rows, folder: ImageFolder) -> List[str]:
    lines = {}
    for line, (name, *_) in rows:
        try:
            name = folder.place(name)  # ./a.jpg is a.jpg
        except ValueError as error:
            raise _LineError(line, str(error)) from error
        if name in lines:
            raise _LineError(line, f'{name!r} is also on line {lines[name]}. Put all labels of a file on one line.')
        lines[name] = line
    return list(lines)


def _read_columns(cells: _Rows, header: _Names, class_names: _Names) -> Tuple[np.ndarray, List[str]]:
    names = header or class_names
    if names is None:
        raise _LineError(1, 'no header. Add one with the class names, or give them with --class-map FILE.')
    for line, row in cells:
        for column, value in enumerate(row, 2):
            if value not in _TARGETS:
                problem = f'column {column} has {value!r}, expected 1, 0, -1 or nothing'
                raise _LineError(line, f'{problem}. Correct it, or put class names into one cell, as in a|b.')
    if len(names) != len(row):
        problem = f'columns of labels: {len(row)}, class names: {len(names)}'
        raise _LineError(1, f'{problem}. Give one name for each column with --class-map FILE.')
    if odd := set(names) ^ set(class_names or names):
        place = 'header' if min(odd) in names else 'class names of --class-map'
        raise _LineError(1, f'class {min(odd)!r} is only in the {place}. Have the same classes in both.')
    targets = np.array([[_TARGETS[value] for value in row] for _, row in cells], dtype=np.int8)
    class_names = class_names or names
    return targets[:, [names.index(name) for name in class_names]], class_names


def _read_labels(cells: _Rows, class_names: _Names) -> Tuple[np.ndarray, List[str]]:
    separator = next((sign for sign in '|;' if any(sign in row[0] for _, row in cells)), ',')
    labels = [[name.strip() for name in row[0].split(separator) if name.strip()] for _, row in cells]
    class_names = class_names or sorted({name for names in labels for name in names})
    targets = np.zeros((len(cells), len(class_names)), dtype=np.int8)
    for target, (line, _), names in zip(targets, cells, labels):
        for name in names:
            if name not in class_names:
                problem = f'class {name!r} is not one of the {len(class_names)} of the training split or --class-map'
                raise _LineError(line, f'{problem}. Correct it, or list all classes in a --class-map FILE.')
            target[class_names.index(name)] = 1
    return targets, class_names
