"""Text of a table: its encoding, its delimiter, its rows."""

import codecs
import csv
import io
import re
from typing import List, Optional, Tuple

from ...runtime import quoted
from ..images import EXTENSIONS
from .table_cells import LineError, code_of

__all__ = ['DELIMITERS', 'Row', 'decode_table', 'is_image_name', 'read_rows', 'suffix']

Row = Tuple[int, Tuple[str, ...]]  # line number and cells, in tuples for the sake of the garbage collector

DELIMITERS = {',': 'commas', '\t': 'tabs', ';': 'semicolons', ' ': 'blanks'}
_ORDER = (',\t', ';', ' ')  # a later one only if none of an earlier group splits every line
_DECIMAL = re.compile(r'^([+-]?[01]),0+$')
_MARKS = (  # that of UTF-32 starts as that of UTF-16 does
    (codecs.BOM_UTF8, 'utf-8'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def suffix(name: str) -> str:
    """Return what may be the extension of a file name, in lower case, '' if there is none."""
    found = re.search(r'[^/\\](\.[A-Za-z][A-Za-z0-9]{1,4})$', name)
    return found[1].lower() if found else ''


def is_image_name(name: str) -> bool:
    """Tell whether a cell ends as the name of an image file."""
    return name.lower().endswith(EXTENSIONS)


def _of_utf16(is_big: bool) -> str:
    order = 'be' if is_big else 'le'
    return f'If the table is in UTF-16 without a byte order mark, give --encoding utf-16-{order}'


def decode_table(data: bytes, encoding: Optional[str] = None) -> str:
    """Decode a table: by its byte order mark, else in the encoding given, else in UTF-8.

    Raises:
        ValueError: If the encoding is unknown or contradicts the byte order mark.
        LineError: If the table is in another encoding.
    """
    mark = next((name for sign, name in _MARKS if data.startswith(sign)), None)
    if encoding is not None:
        try:
            name = codecs.lookup(encoding).name
            'a'.encode(encoding)  # a LookupError if it is not of text
        except (LookupError, UnicodeError) as error:
            raise ValueError(
                f'--encoding {encoding!r} is unknown, expected such as cp1252, latin-1, utf-16.'
            ) from error
        if mark and not name.startswith(mark):
            raise ValueError(f'--encoding {encoding!r}: the table starts with the mark of {mark}. Leave the flag out.')
    try:
        text = data.decode(mark or encoding or 'utf-8').removeprefix('\ufeff')
    except UnicodeDecodeError as error:
        shown = (mark or encoding or 'utf-8').upper()
        remedy = 'Save the table in UTF-8, or name its encoding, such as --encoding cp1252 (Excel in Western Europe)'
        if mark:
            remedy = 'The table is damaged: save it again'
        elif encoding is None and b'\0' in data:
            remedy = _of_utf16(data.startswith(b'\0'))
        raise LineError(data.count(b'\n', 0, error.start) + 1, f'not in {shown}. {remedy}.') from error
    if '\0' in text:
        remedy = _of_utf16(text.startswith('\0'))
        raise LineError(text.count('\n', 0, text.index('\0')) + 1, f'a character that is no text. {remedy}.')
    return re.sub(r'\A"?sep=."?(?=\r?\n)', '', text)  # a hint for Excel


def _parse(text: str, delimiter: str) -> List[Row]:
    lines = io.StringIO(text, newline='')
    if delimiter == ' ':
        reader = csv.reader((line.strip() for line in lines), delimiter=' ', skipinitialspace=True, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            row = tuple(map(str.strip, row))
            if any(row):  # not a blank line
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LineError(line, f'not csv ({error}). Check the quotes.') from error
    if not rows:
        raise LineError(line, 'the table has no images. Give a file name and its labels on each line.')
    return rows


def _without_extras(rows: List[Row]) -> List[Row]:
    """Leave out comments and the number of images on top, empty cells that end every line, and single quotes."""
    while rows[0][1][0].startswith('#') and len(rows[0][1]) != len(rows[-1][1]):
        rows = rows[1:]
    if len(rows[0][1]) == 1 and rows[0][1][0] in (str(len(rows) - 1), str(len(rows) - 2)) and len(rows) > 2:
        rows = rows[1:]
    width = max(len(row) for _, row in rows)
    full = width
    while width > 2 and not any(any(row[width - 1 :]) for _, row in rows):
        width -= 1
    if width < full:
        rows = [(line, row[:width]) for line, row in rows]
    (first, header), (_, second) = rows[0], rows[min(1, len(rows) - 1)]
    if len(header) == len(second) - 1 and is_image_name(second[0]) and not is_image_name(header[0]):
        if None not in map(code_of, second[1:]):  # the column of files has no name
            rows = [(first, ('', *header)), *rows[1:]]
    width = len(rows[0][1]) if len({len(row) for _, row in rows}) == 1 else 0
    quoted_columns = {c for c in range(width) if all(_is_quoted(row[c]) or not row[c] for _, row in rows[1:])}
    if not quoted_columns:
        return rows
    return [
        (line, tuple(_unquoted(cell) if c in quoted_columns else cell for c, cell in enumerate(row)))
        for line, row in rows
    ]


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == "'" and cell.count("'") == 2


def _unquoted(cell: str) -> str:
    return cell[1:-1].strip() if _is_quoted(cell) else cell


def _has_files(rows: List[Row]) -> bool:
    cells = [row for _, row in rows[1:] or rows]
    return any(all(is_image_name(row[column]) for row in cells) for column in range(len(cells[0])))


def read_rows(text: str) -> Tuple[List[Row], str]:
    """Split a table into rows of equal length, and say by which delimiter.

    It is the one that splits every line evenly: comma or tab, else semicolon, else blanks. One that leaves a column of
    image files goes first.

    Raises:
        LineError: If no delimiter does so, or both comma and tab do.
    """
    even = {}
    for delimiter in DELIMITERS:
        if delimiter in text:
            try:
                rows = _without_extras(_parse(text, delimiter))
            except LineError:
                continue
            is_split = delimiter == ' ' and all(re.search('[,;\t]', row[0]) for _, row in rows)  # by another sign
            if len({len(row) for _, row in rows}) == 1 and len(rows[0][1]) > 1 and not is_split:
                even[delimiter] = rows
                if delimiter == ',' and '\t' not in text and _has_files(rows):
                    break
    for fits in ([sign for sign in even if _has_files(even[sign])], list(even)):
        for group in _ORDER:
            found = [sign for sign in fits if sign in group]
            if len(found) > 1:
                shown = ', or '.join(f'by {DELIMITERS[sign]} {[*even[sign][0][1][:4]]}' for sign in found)
                raise LineError(even[found[0]][0][0], f'may be split {shown}. Quote the cells that have the other one.')
            if found == [';']:  # 1,0 is a number where commas do not separate cells
                return [(line, tuple(_DECIMAL.sub(r'\1', cell) for cell in row)) for line, row in even[';']], ';'
            if found:
                return even[found[0]], found[0]
    first = text.strip().partition('\n')[0]
    delimiter = next((sign for sign in '\t,;' if sign in first), ',')
    rows = _without_extras(_parse(text, delimiter))
    expected = max(2, len(rows[0][1]))
    line, row = next((line, row) for line, row in rows if len(row) != expected)
    if len(row) == 1:
        problem = f'{quoted(row[0])} is not a file name and its labels, separated by commas, tabs, semicolons or blanks'
        raise LineError(line, f'{problem}. Write them so, as in a.jpg,cat.')
    problem = f'cells separated by {DELIMITERS[delimiter]}: {len(row)}, expected {expected} as in the first line'
    raise LineError(
        line, f'{problem}. Quote a cell that has a {DELIMITERS[delimiter][:-1]} in it, as in "a{delimiter} b".'
    )
