"""Results of evaluations for people and for programs: a table of classes, and files of figures with four decimals."""

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from ..class_names import shorten
from ..runtime import replacing
from .class_report import Rows

__all__ = ['Result', 'class_table', 'in_decimals', 'write_results']

Result = Dict[str, Any]
FIGURES = {'AP': 8, 'precision': 11, 'recall': 8, 'F1': 8}  # and the columns they take
ENDS = 10  # best and worst classes of a long table
WIDEST = 36  # columns of a name: a line has less than 80


def _width(text: str) -> int:
    """Columns of a text on a terminal."""
    wide = sum(unicodedata.east_asian_width(letter) in 'WF' for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ('Mn', 'Me', 'Cf') for letter in text)


def _fit(name: str) -> str:
    """Cut a name to what a line has room for."""
    lengths = range(WIDEST, 0, -1)
    return next(short for length in lengths if _width(short := shorten(name, length)) <= WIDEST)


def class_table(rows: Rows) -> str:
    """Format rows of `class_report` for a terminal, best AP first; of more than twenty classes the best and worst."""
    ranked = sorted((row for row in rows if row['positives']), key=lambda row: -row['AP'])
    absent = [row for row in rows if not row['positives']]
    is_long = len(rows) > 2 * ENDS
    gap = len(ranked) - 2 * ENDS if is_long else 0
    shown = [*ranked[:ENDS], *ranked[-ENDS:]] if gap > 0 else ranked + ([] if is_long else absent)
    names = [_fit(row['name']) for row in shown]
    width = max(map(_width, [*names, 'class']))
    lines = [
        'class' + ' ' * (width - 5) + '  images' + ''.join(f'{name:>{columns}}' for name, columns in FIGURES.items())
    ]
    for number, (name, row) in enumerate(zip(names, shown)):
        if gap > 0 and number == ENDS:
            lines.append(f'... {gap} more ...')
        figures = {figure: f'{row[figure]:.2f}' if row['positives'] else '-' for figure in FIGURES}
        cells = f'{row["positives"]:>8}' + ''.join(f'{figures[name]:>{FIGURES[name]}}' for name in FIGURES)
        lines.append(name + ' ' * (width - _width(name)) + cells)
    if is_long and absent:
        lines.append(f'Not in the table: {len(absent)} classes without any image.')
    return '\n'.join(lines)


def in_decimals(result: Result) -> Result:
    """Return a result with figures of four decimals."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}


def write_results(path: Union[str, Path], output: Union[Result, List[Result]], form: Optional[str] = None) -> None:
    """Write a result or a list of them as json, or as csv with a row for each.

    Args:
        path: File to write.
        output: Results whose figures have been rounded by `in_decimals`.
        form: 'json' or 'csv' (default: by the suffix of the path, else json).
    """
    if (form or Path(path).suffix.lstrip('.')) == 'csv':
        results = output if isinstance(output, list) else [output]
        with replacing(path, newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for result in results for key in result)))
            writer.writeheader()
            writer.writerows(results)
    else:
        with replacing(path) as file:
            file.write(json.dumps(output, indent=4) + '\n')
