"""Write a report: one page with all in it, its figures, pictures, style and script."""

import html
import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Dict, Mapping, Optional, Union

from ..evaluation.evaluate import Evaluation
from ..runtime import replacing
from ..version import __version__
from .content import describe_evaluation, pick_galleries
from .pictures import Look, describe_pictures
from .words import describe_origin

__all__ = ['write_report']

FILES = resources.files('gkgnet_timm') / 'report' / 'page'
SCRIPTS = ('base', 'table', 'charts', 'confusion', 'looks', 'gallery')
NO_CLEANLAB = (
    'Labels that are probably wrong are found by cleanlab, which is not installed: '
    "pip install 'gkgnet-timm[report]', and write the report again."
)


def _read(name: str) -> str:
    return (FILES / name).read_text(encoding='utf-8')


def _in_script(values: Dict[str, Any]) -> str:
    """JSON in ASCII that no name in it can end the script element of."""
    text = json.dumps(values, allow_nan=False, separators=(',', ':'))
    return text.replace('&', r'\u0026').replace('<', r'\u003c').replace('>', r'\u003e')


def write_report(
    folder: Union[str, Path],
    evaluation: Evaluation,
    origin: Mapping[str, Any],
    look: Optional[Look] = None,
) -> Path:
    """Write `index.html`, which needs no other file and no network.

    Args:
        folder: Folder to write to, created if necessary.
        evaluation: What the report is of.
        origin: What was evaluated: as far as known `model`, `checkpoint` or `scores`, `dataset`, `split`, `img_size`,
            `crop_mode`, and a `warning`.
        look: Says where the label nodes of an image looked.

    Returns:
        The path of the page.
    """
    galleries = pick_galleries(evaluation)
    title, facts, notes = describe_origin(origin, evaluation)
    content = dict(describe_evaluation(evaluation), facts=facts, images_total=len(evaluation.files))
    content['notes'] = [*notes, *content['notes']]
    content.update(describe_pictures(evaluation, galleries, look))
    content.update(no_label_errors='' if galleries['label_errors'] else NO_CLEANLAB)
    page = Template(_read('page.html')).substitute(
        title=html.escape(title),
        style=_read('page.css'),
        script='\n'.join(_read(f'{name}.js') for name in SCRIPTS),
        data=_in_script(content),
        version=html.escape(__version__),
    )
    path = Path(folder, 'index.html')
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(page)
    return path
