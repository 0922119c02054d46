"""What all plots share: figures that need no display, colours, and names that fit."""

import warnings
from pathlib import Path
from typing import Any, List, Tuple, Union

from ..class_names import shorten
from ..runtime import replacing

__all__ = ['BLUE', 'COLOURS', 'ORANGE', 'class_styles', 'create_figure', 'save_figure', 'short_name']

# of Okabe and Ito, which colour-blind readers tell apart; black is left for means, and yellow is too pale for a line
BLUE, ORANGE = '#0072B2', '#D55E00'
COLOURS = (BLUE, ORANGE, '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
DASHES = ('-', '--', ':', '-.')


def create_figure(**kwargs: Any) -> Any:
    """Create a matplotlib figure that needs no display. The arguments are those of `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(**kwargs)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Union[str, Path], **kwargs: Any) -> None:
    """Write a figure in the format of the path's suffix, png without one. More arguments are those of `savefig`."""
    with replacing(path, 'wb') as file, warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from font')  # such letters become boxes
        figure.savefig(file, format=Path(path).suffix[1:] or 'png', **kwargs)


def class_styles(number: int) -> List[Tuple[str, str]]:
    """Return as many pairs of colour and line style, different for up to 24 lines."""
    return [(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i in range(number)]


def short_name(name: str, longest: int = 28) -> str:
    """Make a name fit for a plot: short, in one line, and not a formula."""
    return shorten(name, longest).replace('$', r'\$')
