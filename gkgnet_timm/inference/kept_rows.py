"""The rows of an interrupted run: which of them a later run keeps."""

import csv
import io
import json
import os
from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..data.shards import Shard
from ..runtime import same_file
from .prediction_file import COLUMNS, Row, encode, parse_csv, read_records

__all__ = ['Kept', 'check_again', 'keep_rows', 'keep_shards']

ROUNDING = 0.01  # of scores: by the number of threads, the batch, the device


class Kept(NamedTuple):
    """Rows kept from an interrupted run. Its last batch is repeated to check that the rows are the same, if need be."""

    rows: int = 0
    unreadable: int = 0  # how many of the rows
    size: int = 0  # in bytes
    files: Sequence[str] = ()
    again: Sequence[str] = ()  # files of the batch to repeat
    start: int = 0  # byte where the rows of that batch begin


def _read(path: str, form: str) -> Iterator[Tuple[str, bool, int]]:
    """Yield the name of each row, whether it is of an unreadable image, and where it ends. The head of csv is one."""
    size = 0
    if not os.path.isfile(path):
        return
    with open(path, 'rb') as file:
        for i, record in enumerate(read_records(file, form)):
            size += len(record)
            try:
                if form == 'jsonl':
                    row = json.loads(record)
                    name, bad = str(row['file']), 'error' in row
                else:
                    values = parse_csv(record)
                    if len(values) != len(COLUMNS) or (i == 0) != (values == COLUMNS):
                        raise ValueError
                    name, bad = values[0], bool(values[3])
            except (ValueError, KeyError, TypeError, StopIteration, RecursionError, csv.Error):
                raise ValueError(f'Cannot resume: row {i + 1} of {path!r} is not {form} of predict.') from None
            yield name, bad, size


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
    rows = list(_read(path, form))
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
    names = [name for name, _, _ in rows]
    return Kept(len(rows), unreadable, size, names, [asked[same_file(name)] for name, _, _ in again], start)


def keep_shards(path: str, form: str, shards: Sequence[Shard]) -> Tuple[Kept, int]:
    """Find the rows of an interrupted run over shards to keep: those before the last shard that has some.

    Returns:
        What is kept, and the place of the shard to go on with.

    Raises:
        ValueError: If the file is not an output in this format, or has rows of other shards.
    """
    kept, place, rows, unreadable, size = Kept(), 0, 0, 0, 0
    for i, (name, bad, end) in enumerate(_read(path, form)):
        if form == 'csv' and i == 0:
            kept = Kept(size=end)
        else:
            if rows and not shards[place].has(name):
                kept, place = Kept(rows, unreadable, size), place + 1
            if place == len(shards) or not shards[place].has(name):
                raise ValueError(
                    f'Cannot resume: row {rows + 1} of {path!r} is of {name!r}, which is not in the shard that is '
                    'next. Give the same shards, or another --output.'
                )
            rows, unreadable = rows + 1, unreadable + bad
        size = end
    return kept, place


def _parse(record: bytes, form: str) -> Tuple[Optional[str], Dict[str, float]]:
    """The error of a row, or its scores by label."""
    if form == 'jsonl':
        row = json.loads(record)
        return row.get('error'), {label['label']: float(label['score']) for label in row.get('labels', ())}
    _, labels, scores, error = parse_csv(record)
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
        records = list(read_records(io.BytesIO(file.read(kept.size - kept.start)), form))
    try:
        before = [_parse(record, form) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'Cannot resume: {path!r} has rows that are not {form} of predict.') from error
    now = [_parse(encode(row, form), form) for row in rows]
    for (error, old), (other_error, new) in zip(before, now):
        if bool(error) != bool(other_error) or not _is_same(old, new, thresholds):
            raise ValueError(
                f'Cannot resume: flags, model or images differ from the run that began {path!r}, as the rows from '
                f'{kept.again[0]!r} on would be different now. Give the same ones, or another --output.'
            )
