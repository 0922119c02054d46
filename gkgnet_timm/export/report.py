"""What an export says about the files it wrote."""

from pathlib import Path
from typing import NamedTuple, Optional, Sequence

from .check import Difference

__all__ = ['ExportedFile', 'count_nodes', 'describe']

_COLUMNS = ('file', 'MB', 'nodes', 'logits differ by up to', 'scores on average by', 'equal labels')
_COLUMNS += (
    'equal neighbours',
    'PyTorch: equal to float64',
    'logits: median distance from float64',
    'PyTorch: the same',
)


class ExportedFile(NamedTuple):
    """A file that `export_model` wrote.

    Attributes:
        path: Where it is.
        seconds: Time that writing it took.
        size: Size in bytes.
        nodes: Nodes of a graph of ONNX, None for another file.
        difference: How far it is from PyTorch.
    """

    path: Path
    seconds: float
    size: int
    nodes: Optional[int]
    difference: Difference


def count_nodes(path: Path) -> Optional[int]:
    """Number of nodes of a graph of ONNX, None for another file."""
    if path.suffix != '.onnx':
        return None
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def _share(value: Optional[float]) -> str:
    return '-' if value is None else f'{100 * value:.2f} %'


def describe(files: Sequence[ExportedFile]) -> str:
    """A table of files and how far they are from PyTorch, in Markdown."""
    rows = [_COLUMNS, ['---'] * len(_COLUMNS)]
    for path, _, size, nodes, found in files:
        shares = [_share(value) for value in (found.labels, found.neighbors, found.single_neighbors)]
        numbers = [f'{value:.2g}' for value in (found.logits, found.scores, found.double, found.single)]
        rows.append([path.name, f'{size / 1e6:.1f}', str(nodes or '-'), *numbers[:2], *shares, *numbers[2:]])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)
