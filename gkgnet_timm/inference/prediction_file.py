"""Labels of images in the formats of `predict`, written as they come."""

import csv
import io
import json
import os
import sys
from itertools import islice
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Sequence, TextIO

from tqdm import tqdm

from ..runtime import replacing

__all__ = ['COLUMNS', 'FORMATS', 'PredictionFile', 'Row', 'encode', 'output_format', 'parse_csv', 'read_records']
__all__ += ['read_rows', 'write_joined']

FORMATS = ('table', 'csv', 'json', 'jsonl')
COLUMNS = ['file', 'labels', 'scores', 'error']
_WIDEST = 60  # characters for file names in a table
Row = Dict[str, Any]  # file, and either labels (a list of label and score) or error


def output_format(name: Optional[str], path: Optional[str]) -> str:
    """Choose the format: by name, else by the suffix of the output, else a table in a terminal and jsonl in a pipe.

    Raises:
        ValueError: If the suffix is not that of a format.
    """
    if name:
        return name
    if path is None:
        return 'table' if sys.stdout.isatty() else 'jsonl'
    suffix = os.path.splitext(path)[1].lower().removeprefix('.')
    if suffix not in FORMATS[1:]:
        raise ValueError(f'Output {path!r} does not end in .csv, .json or .jsonl: give --format {"|".join(FORMATS)}.')
    return suffix


def _encoding_errors(form: str) -> str:
    # for names that are not UTF-8: csv keeps their bytes, json gets an escape that any reader of json accepts
    return 'surrogateescape' if form == 'csv' else 'backslashreplace'


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    # older versions of Python do not quote a carriage return
    quoting = csv.QUOTE_ALL if any('\r' in value for value in values) else csv.QUOTE_MINIMAL
    csv.writer(line, lineterminator='\n', quoting=quoting).writerow(values)
    return line.getvalue()


def _printable(text: str) -> str:
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _record(row: Row, form: str) -> str:
    """Format a row as csv or jsonl."""
    if form == 'jsonl':
        return json.dumps(row, ensure_ascii=False) + '\n'
    labels = row.get('labels', [])
    names = ';'.join(label['label'] for label in labels)
    scores = ';'.join(f'{label["score"]}' for label in labels)
    return _csv_line([row['file'], names, scores, row.get('error', '')])


class PredictionFile:
    """Write rows to a file or to stdout. Rows that have been written survive a kill.

    Args:
        path: File to write, None for stdout.
        form: One of `FORMATS`.
        files: Files that will get rows, for the width of a table.
        kept: Size in bytes of the part of the file to keep.
    """

    def __init__(self, path: Optional[str], form: str, files: Sequence[str], kept: int = 0):
        self.form = form
        self.files = files
        self.path = path
        if path is None:
            self.stream: TextIO = sys.stdout
            if hasattr(self.stream, 'reconfigure'):  # that of Jupyter does not have it, and takes any text
                is_pipe = not self.stream.isatty()  # a terminal knows its own encoding
                errors = _encoding_errors(form) if is_pipe else 'backslashreplace'
                self.stream.reconfigure(encoding='utf-8' if is_pipe else None, errors=errors)
        else:
            if kept:
                os.truncate(path, kept)
            mode = 'a' if kept else 'w'
            self.stream = open(path, mode, encoding='utf-8', errors=_encoding_errors(form), newline='')
        self.width: int = (
            min(_WIDEST, max((len(_printable(name)) for name in files), default=0)) if form == 'table' else 0
        )
        self.separator: str = '\n'
        head = dict(csv=_csv_line(COLUMNS), json='[', table=f'{"file":<{self.width}}  labels\n')
        if not kept:
            self._write(head.get(form, ''))

    def __enter__(self) -> 'PredictionFile':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.form == 'json' and kind is None:
            self._write('\n]\n')
        if self.path is not None:
            self.stream.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows, all at once."""
        self._write(''.join(map(self._line, rows)))

    def _write(self, text: str) -> None:
        with tqdm.external_write_mode(self.stream):  # there may be a progress bar in the same terminal
            self.stream.write(text)
            self.stream.flush()

    def _line(self, row: Row) -> str:
        if self.form in ('csv', 'jsonl'):
            return _record(row, self.form)
        if self.form == 'json':
            separator, self.separator = self.separator, ',\n'
            return separator + json.dumps(row, ensure_ascii=False)
        labels = row.get('labels', [])
        text = '  '.join(f'{_printable(label["label"])} {label["score"]:.2f}' for label in labels) or '-'
        text = _printable(f'unreadable: {row["error"]}') if 'error' in row else text
        return f'{_printable(row["file"]):<{self.width}}  {text}\n'


def encode(row: Row, form: str) -> bytes:
    """Format a row as the bytes that a csv or jsonl file has of it."""
    return _record(row, form).encode(errors=_encoding_errors(form))


def parse_csv(record: bytes) -> List[str]:
    """The values of a row of a csv file."""
    return next(csv.reader(io.StringIO(record.decode(errors='surrogateescape'), newline='')))


def read_records(file: BinaryIO, form: str) -> Iterator[bytes]:
    """Yield complete rows of csv or jsonl, and the head of csv: a kill may have cut off the last one."""
    record = b''
    for line in file:
        record += line
        # quoted values in csv may have line breaks; json escapes them
        if line.endswith(b'\n') and (form == 'jsonl' or record.count(b'"') % 2 == 0):
            yield record
            record = b''


def write_joined(path: str, form: str, records: Iterable[bytes], rows: int) -> None:
    """Write rows of csv, json or jsonl, as the bytes that other files have of them.

    The file takes the place of the one before when it is complete.

    Raises:
        ValueError: If there are more or fewer rows than said.
    """
    count = 0
    with replacing(path, 'wb') as file:
        file.write(dict(csv=_csv_line(COLUMNS).encode(), json=b'[').get(form, b''))
        for count, record in enumerate(records, 1):
            file.write((b',\n' if count > 1 else b'\n') + record if form == 'json' else record)
        file.write(b'\n]\n' if form == 'json' else b'')
        if count != rows:
            raise ValueError(f'The parts of {path!r} have {count} rows in order, expected {rows}: start again.')


def read_rows(path: str, form: str) -> Iterator[bytes]:
    """Yield the bytes of each row in a complete file of csv, json or jsonl, for `write_joined`."""
    with open(path, 'rb') as file:
        if form == 'json':
            yield from (line.rstrip(b',\n') for line in file if line.startswith(b'{'))
        else:
            yield from islice(read_records(file, form), int(form == 'csv'), None)
