"""Which column of a table holds files, which hold labels, and which rows belong to a split."""

import csv
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Union

from .base import first_names
from .names import ImageFolder
from .table_cells import LineError
from .table_text import Row, is_image_name, suffix

__all__ = ['Columns', 'check_header', 'check_labels', 'find_columns', 'find_rows']

# headers of file names without extension, without '_' and blanks
_OF_FILES = {'image', 'images', 'img', 'imageid', 'imgid', 'imagename', 'imagepath', 'file', 'files', 'filename'}
_OF_FILES |= {'filepath', 'path', 'photo', 'photos'}
# likewise, of what is no label, but may be 1 or 0
_OF_IMAGES = {'split', 'fold', 'subset', 'partition', 'isvalid', 'isval', 'isvalidation', 'istrain', 'istraining'}
_OF_IMAGES |= {'istest', 'index', 'idx', 'id'}
_OF_INDEX = {'index', 'idx', 'id', 'no', 'no.', 'nr', '#', 'row'}


class Columns(NamedTuple):
    """Parts of a table.

    Attributes:
        header: Names of all columns, None without a header.
        image: Column of the files.
        labels: Columns of the labels, in order.
        rows: Rows of images.
    """

    header: Optional[Sequence[str]]
    image: int
    labels: List[int]
    rows: List[Row]

    def name(self, column: int) -> str:
        """Name of a column for messages."""
        return repr(self.header[column]) if self.header and self.header[column] else str(column + 1)


def _of_header(header: Row, name: str, flag: str) -> int:
    line, names = header
    if names.count(name) != 1:
        problem = f'several columns {name!r}' if name in names else f'no column {name!r}'
        raise LineError(line, f'{problem}. {flag} is one of {first_names(names, 20)}.')
    return names.index(name)


def _share_of_files(rows: Sequence[Row], column: int) -> float:
    return sum(is_image_name(row[column]) for _, row in rows) / len(rows)


def _columns_of_files(rows: Sequence[Row]) -> List[int]:
    rows = rows[1:] or rows
    seen = [c for c in range(len(rows[0][1])) if any(is_image_name(row[c]) for _, row in rows[:20])]
    return [column for column in seen if _share_of_files(rows, column) > 0.5]


def _has_header(rows: Sequence[Row], column: int) -> bool:
    first, *others = (row[column] for _, row in rows[:2])
    if is_image_name(first):
        return False
    return not suffix(first) or suffix(first) not in map(suffix, others)  # a format that timm does not list


def check_header(first: Row, columns: Columns, folder: ImageFolder) -> None:
    """Raise a LineError if the first line was taken for a header, but may be that of an image without extension."""
    line, cells = first
    name = cells[columns.image]
    if columns.header is None:
        return
    if any(is_image_name(row[columns.image]) for _, row in columns.rows):
        if suffix(name) and _is_file(name, folder):  # of a format that timm does not list
            raise LineError(line, f'{name!r} is an image, but not of a format that can be read. Convert it.')
        return
    shape = re.sub(r'\d', '0', name)
    is_alike = '0' in shape and all(re.sub(r'\d', '0', row[columns.image]) == shape for _, row in columns.rows)
    if name.isdigit() or is_alike or (name and _is_file(name, folder)):
        problem = f'{name!r} may be an image or the name of a column'
        raise LineError(
            line, f'{problem}. Put a line such as file,labels first: names without extension need a header.'
        )


def _is_file(name: str, folder: ImageFolder) -> bool:
    try:
        return folder.find(name) is not None
    except ValueError:  # of several files, or outside the folder
        return True


def _leading_index(header: Optional[Sequence[str]], rows: Sequence[Row], image: int) -> List[int]:
    """Columns of running numbers in front, which pandas writes without a name."""
    if header is None:
        return [0] if image == 1 and _is_running(rows, 0) else []
    found: List[int] = []
    for column, name in enumerate(header):
        is_unnamed = re.fullmatch(r'(Unnamed: [\d.]+)?', name) is not None
        if column == image or not (is_unnamed or name.lower() in _OF_INDEX):
            break
        if not (is_unnamed and all(map(_is_whole, _cells(rows, column))) or _is_running(rows, column)):
            break
        found.append(column)
    return found


def _cells(rows: Sequence[Row], column: int) -> List[str]:
    return [row[column] for _, row in rows]


def _is_whole(cell: str) -> bool:
    return re.fullmatch(r'\d+(\.0)?', cell) is not None


def _is_running(rows: Sequence[Row], column: int) -> bool:
    numbers = [cell.removesuffix('.0') for cell in _cells(rows, column)]
    return any(numbers == [str(i + start) for i in range(len(rows))] for start in (0, 1))


def find_columns(
    rows: List[Row],
    image_column: Optional[str] = None,
    label_columns: Union[None, str, Sequence[str]] = None,
    other_columns: Optional[Dict[str, str]] = None,
) -> Columns:
    """Find the columns of files and labels.

    Args:
        rows: All lines of the table.
        image_column: Name of the column of files.
        label_columns: Names of the columns of labels, one or several that commas separate.
        other_columns: Names of columns of neither, by the flags that they are for.

    Raises:
        LineError: If the table has no such columns, or they cannot be told.
    """
    head = rows[0]
    of_files = _columns_of_files(rows)
    named: Optional[List[int]] = None
    if label_columns is not None:
        names = (
            next(csv.reader([label_columns], skipinitialspace=True))
            if isinstance(label_columns, str)
            else label_columns
        )
        named = [_of_header(head, str(name).strip(), '--label-columns') for name in names]
        of_files = [column for column in of_files if column not in named]
    if image_column is not None:
        image = _of_header(head, image_column, '--image-column')
    elif len(of_files) > 1:
        shown = [head[1][column] for column in of_files]
        raise LineError(head[0], f'several columns hold files, those under {first_names(shown)}. Give --image-column.')
    elif of_files:
        image = of_files[0]
    else:
        plain = [re.sub(r'[\s_]', '', name.lower()) for name in head[1]]
        likely = [column for column, name in enumerate(plain) if name in _OF_FILES and column not in (named or ())]
        free = [column for column in range(len(head[1])) if column not in (named or ())]
        image = likely[0] if likely else free[0] if free else 0
    header: Optional[Sequence[str]] = None
    if image_column is not None or named is not None or other_columns or _has_header(rows, image):
        header, rows = head[1], rows[1:]
    if not rows:
        raise LineError(head[0], 'the table has no images. Give a file name and its labels on each line.')
    other = [_of_header(head, name, flag) for flag, name in (other_columns or {}).items()]
    labels = named
    if labels is None:
        others = {image, *other, *_leading_index(header, rows, image)}
        labels = [column for column in range(len(head[1])) if column not in others]
    if not labels or image in labels:
        raise LineError(
            head[0], f'no column of labels beside the files in column {head[1][image]!r}. Give --label-columns.'
        )
    return Columns(header, image, labels, rows)


def check_labels(columns: Columns, class_names: Sequence[str]) -> None:
    """Raise a LineError if a column that was not named by the user has what is said of images, but no label.

    Args:
        columns: Parts of a table with a column for each class.
        class_names: Names that are certain to be of classes.
    """
    if len(columns.labels) < 2 or columns.header is None:
        return
    for column in columns.labels:
        name = columns.header[column]
        if re.sub(r'[\s_-]', '', name.lower()) in _OF_IMAGES and name not in class_names:
            raise LineError(
                1,
                f'column {name!r} may be a class, or say something else of the image. Name the columns of labels with '
                f'--label-columns (of {first_names(columns.header)}), or list the classes in a --class-map FILE.',
            )


def find_rows(columns: Columns, name: str, value: str) -> List[bool]:
    """Tell which rows have a value in a column.

    Raises:
        ValueError: If there is no such row.
    """
    column = columns.header.index(name)
    kept = [row[column] == value for _, row in columns.rows]
    if not any(kept):
        values = sorted({row[column] for _, row in columns.rows})
        raise ValueError(f'no row has {value!r} in column {name!r}, which has {first_names(values)}. Correct --where.')
    return kept
