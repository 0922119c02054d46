"""Draw a training run."""

import csv
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from ..evaluation.figures import COLOURS, DASHES, create_figure, save_figure, short_name

__all__ = ['draw_curves']


def _draw_panel(axes: Any, rows: List[Dict[str, Any]], columns: Dict[str, str]) -> None:
    """Draw columns of a summary by label over the epochs, as far as they are known."""
    for (label, column), colour, dash in zip(columns.items(), COLOURS, DASHES):
        known = [row for row in rows if row.get(column)]
        if known:
            epochs, values = [int(row['epoch']) for row in known], [float(row[column]) for row in known]
            axes.plot(epochs, values, color=colour, ls=dash, marker='.', label=label)


def draw_curves(summary: Union[str, Path], path: Union[str, Path], metric: str, name: Optional[str] = None) -> None:
    """Draw losses, metric and learning rate of a summary.csv over the epochs, as far as they are known.

    Args:
        summary: File of `RunLog`.
        path: Picture to write.
        metric: Column without `eval_`.
        name: Title, such as the name of the run.
    """
    with open(summary, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    best = next((int(row['best_epoch']) for row in reversed(rows) if row.get('best_epoch')), None)
    panels = {'loss': {'training': 'train_loss', 'validation': 'eval_loss'}}
    if metric != 'loss':
        panels[metric] = {metric: f'eval_{metric}', **({'chance': 'eval_chance'} if metric == 'mAP' else {})}
    panels['learning rate'] = {'learning rate': 'lr'}
    figure = create_figure(figsize=(12, 3.8), layout='constrained')
    if name:
        figure.suptitle(short_name(name, 80))
    for axes, (title, columns) in zip(figure.subplots(1, len(panels)), panels.items()):
        _draw_panel(axes, rows, columns)
        if best is not None and title != 'learning rate':
            axes.axvline(best, color='k', ls=':', lw=1, label=f'best {metric}, epoch {best}')
        axes.set(title=title, xlabel='epoch')
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(fontsize=8)
    save_figure(figure, path, dpi=100)
