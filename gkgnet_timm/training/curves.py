"""Draw a training run."""

import csv
from pathlib import Path
from typing import Union

from ..evaluation.plots import create_figure, save_figure

__all__ = ['draw_curves']


def draw_curves(summary: Union[str, Path], path: Union[str, Path], metric: str) -> None:
    """Draw loss, learning rate and metric of a summary.csv over the epochs."""
    with open(summary, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row['epoch']) + 1 for row in rows]
    panels = {'loss': 'train_loss', 'learning rate': 'lr', metric: f'eval_{metric}'}
    figure = create_figure(figsize=(12, 3.5), layout='constrained')
    for axes, (title, column) in zip(figure.subplots(1, len(panels)), panels.items()):
        axes.plot(epochs, [float(row[column]) for row in rows], marker='.')
        axes.set(title=title, xlabel='epoch')
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)
