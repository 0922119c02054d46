"""Draw a training run."""

import csv
from pathlib import Path
from typing import Union

from ..evaluation.figures import create_figure, save_figure

__all__ = ['draw_curves']


def draw_curves(summary: Union[str, Path], path: Union[str, Path], metric: str) -> None:
    """Draw loss, learning rate and metric of a summary.csv over the epochs, as far as they are known."""
    with open(summary, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    lines = {'training': 'train_loss', 'validation': 'eval_criterion'}
    panels = {'loss': lines, 'learning rate': {'': 'lr'}, metric: {'': f'eval_{metric}'}}
    figure = create_figure(figsize=(12, 3.5), layout='constrained')
    for axes, (title, columns) in zip(figure.subplots(1, len(panels)), panels.items()):
        for label, column in columns.items():
            known = [row for row in rows if row.get(column)]
            if known:
                epochs = [int(row['epoch']) + 1 for row in known]
                axes.plot(epochs, [float(row[column]) for row in known], marker='.', label=label or None)
        axes.set(title=title, xlabel='epoch')
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend()
    save_figure(figure, path, dpi=100)
