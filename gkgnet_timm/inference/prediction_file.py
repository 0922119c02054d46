"""Labels of images in the formats of `predict`, as files that a later run can continue."""

import csv
import io
import json
import os
import sys
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, TextIO, Tuple

from tqdm import tqdm

from ..runtime import same_file

__all__ = ['FORMATS', 'Kept', 'PredictionFile', 'check_again', 'keep_rows', 'output_format']

FORMATS = ('table', 'csv', 'json', 'jsonl')
_COLUMNS = ['file', 'labels', 'scores', 'error']
ROUNDING = 0.01  # of scores: by the number of threads, the batch, the device
_WIDEST = 60  # characters for file names in a table
Row = Dict[str, Any]  # file, and either labels (a list of label and score) or error


class Kept(NamedTuple):
    """Rows kept from an interrupted run. Its last batch is repeated to check that the rows are the same, if need be."""

    files: List[str]
    unreadable: int  # how many of the files
    size: int  # in bytes
    again: Sequence[str] = ()  # files of the batch to repeat
    start: int = 0  # byte where the rows of that batch begin


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
        self.form, self.files, self.path = form, files, path
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
        self.width = min(_WIDEST, max((len(_printable(name)) for name in files), default=0)) if form == 'table' else 0
        self.separator = '\n'
        head = dict(csv=_csv_line(_COLUMNS), json='[', table=f'{"file":<{self.width}}  labels\n')
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


def _records(file: BinaryIO, form: str) -> Iterator[bytes]:
    """Yield complete rows: a kill may have cut off the last one."""
    record = b''
    for line in file:
        record += line
        # quoted values in csv may have line breaks; json escapes them
        if line.endswith(b'\n') and (form == 'jsonl' or record.count(b'"') % 2 == 0):
            yield record
            record = b''


def keep_rows(path: str, form: str, files: Sequence[str], batch_size: int) -> Kept:
    """Find the rows of an interrupted run to keep: those of complete batches, or all if every file has a row.

    The rounding of scores may depend on the other images in the batch. With the batches of an uninterrupted run, the
    file becomes the same to the byte, on the same number of threads.

    Args:
        path: Output of the interrupted run, which need not exist.
        form: csv or jsonl.
        files: Files that will get rows.
        batch_size: Images in a batch.

    Raises:
        ValueError: If the file is not an output in this format, or has rows of other files, or two of a file.
    """
    rows = []
    size = 0
    again = []
    if os.path.isfile(path):
        with open(path, 'rb') as file:
            for i, record in enumerate(_records(file, form)):
                size += len(record)
                try:
                    if form == 'jsonl':
                        row = json.loads(record)
                        rows.append((str(row['file']), 'error' in row, size))
                        continue
                    values = next(csv.reader(io.StringIO(record.decode(errors='surrogateescape'), newline='')))
                    if len(values) != len(_COLUMNS) or (i == 0) != (values == _COLUMNS):
                        raise ValueError
                    rows.append((values[0], bool(values[3]), size))
                except (ValueError, KeyError, TypeError, StopIteration, RecursionError, csv.Error):
                    raise ValueError(f'Cannot resume: row {i + 1} of {path!r} is not {form} of predict.') from None
    head, rows = (rows[:1], rows[1:]) if form == 'csv' else ([], rows)
    asked, done = {same_file(file): file for file in files}, {same_file(name): name for name, _, _ in rows}
    if other := next((name for key, name in done.items() if key not in asked), None):
        raise ValueError(
            f'Cannot resume: {path!r} has a row of {other!r}, which is not among the images. Give the same images, or '
            'another --output.'
        )
    if len(done) < len(rows):
        first = {}
        for number, (name, _, _) in enumerate(rows, 1):
            earlier = first.setdefault(same_file(name), number)
            if earlier != number:
                raise ValueError(f'Cannot resume: rows {earlier} and {number} of {path!r} are both of {name!r}.')
    if len(done) < len(asked):
        rows = rows[: len(rows) // batch_size * batch_size]
    again = rows[-batch_size:]
    start, size = ((part or head or [(None, None, 0)])[-1][2] for part in (rows[: len(rows) - len(again)], rows))
    unreadable = sum(bad for _, bad, _ in rows)
    return Kept(
        [name for name, _, _ in rows], unreadable, size, [asked[same_file(name)] for name, _, _ in again], start
    )


def _parse(record: bytes, form: str) -> Tuple[Optional[str], Dict[str, float]]:
    """The error of a row, or its scores by label."""
    if form == 'jsonl':
        row = json.loads(record)
        return row.get('error'), {label['label']: float(label['score']) for label in row.get('labels', ())}
    _, labels, scores, error = next(csv.reader(io.StringIO(record.decode(errors='surrogateescape'), newline='')))
    return error or None, dict(zip(labels.split(';'), map(float, scores.split(';')))) if labels else {}


def _is_same(before: Dict[str, float], now: Dict[str, float], thresholds: Mapping[str, float]) -> bool:
    """Whether scores differ by no more than rounding does. Labels at the threshold may come and go."""
    lowest = min([*before.values(), *now.values()], default=1.0)
    for label in before.keys() | now.keys():
        if label in before and label in now:
            difference = before[label] - now[label]
        else:
            score = before.get(label, now.get(label))
            difference = min(abs(score - thresholds.get(label, 2.0)), score - lowest if before and now else 1.0)
        if not abs(difference) <= ROUNDING:
            return False
    return True


def check_again(path: str, form: str, rows: Sequence[Row], kept: Kept, thresholds: Mapping[str, float]) -> None:
    """Raise a ValueError unless the repeated batch gives the same rows, but for the rounding of scores.

    Args:
        path: Output of the interrupted run.
        form: csv or jsonl.
        rows: Those of `kept.again`, as they are now.
        kept: Result of `keep_rows`.
        thresholds: Of each class, by name.
    """
    with open(path, 'rb') as file:
        file.seek(kept.start)
        records = list(_records(io.BytesIO(file.read(kept.size - kept.start)), form))
    try:
        before = [_parse(record, form) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'Cannot resume: {path!r} has rows that are not {form} of predict.') from error
    now = [_parse(_record(row, form).encode(errors=_encoding_errors(form)), form) for row in rows]
    for (error, old), (other_error, new) in zip(before, now):
        if bool(error) != bool(other_error) or not _is_same(old, new, thresholds):
            raise ValueError(
                f'Cannot resume: flags, model or images differ from the run that began {path!r}, as the rows from '
                f'{kept.again[0]!r} on would be different now. Give the same ones, or another --output.'
            )
