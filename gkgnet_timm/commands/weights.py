"""Pretrained weights: which there are, and which are installed."""

from typing import Any, Dict, List, Optional

from ..benchmark.tables import markdown
from ..weights.table import WeightsRow, weights_table
from .flags.weights import create_parser

COLUMNS = {
    'name': 'weights',
    'num_classes': 'classes',
    'source': 'source',
    'licence': 'licence',
    'img_size': 'px',
    'mega_parameters': 'M parameters',
    'giga_multiply_adds': 'G multiply-adds',
    'published': 'published',
    'installed': 'installed',
}


def _cells(row: WeightsRow) -> Dict[str, Any]:
    return row._asdict() | dict(
        num_classes=row.num_classes or 'trunk',
        mega_parameters=row.parameters / 1e6,
        installed=str(row.file) if row.is_installed else None,
    )


def main(argv: Optional[List[str]] = None) -> None:
    """Print a table of all pretrained weights."""
    create_parser().parse_args(argv)
    print(markdown([_cells(row) for row in weights_table()], COLUMNS))
