"""Make the pictures of docs/design.md: the graph of one drawn scene, and the stages with their shapes.

Run it in the root of the repository: PYTHONPATH=. python docs/make_design_pictures.py CHECKPOINT
with a checkpoint of `train_multilabel.py --config demo`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import timm

import gkgnet_timm
from gkgnet_timm.data.demo import draw_scene
from gkgnet_timm.evaluation.figures import save_figure

FOLDER = Path(__file__).parent / 'pictures'
SEED = (7, 14)  # of a scene that is in neither split of the demo set
COLOURS = ('#0072b2', '#d55e00')  # of the channel groups
STAGES = (3, 2)  # of the patch and of the label nodes: their cells are of a size to be seen
PATCH = (9, 8)  # in the first map
SIZE = 576


def draw_graph(model: torch.nn.Module) -> Figure:
    """Draw the patches of a stage, the neighbours of one of them, and those of the label nodes."""
    scene, objects = draw_scene(np.random.default_rng(SEED))
    side = scene.width
    figure = Figure(figsize=(9, 3.9), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    labels = sorted({name for name, _, _ in objects})
    panels = (
        (left, 'one patch', gkgnet_timm.explain(model, scene, patch=PATCH).to_json()),
        (right, 'label nodes', gkgnet_timm.explain(model, scene, labels=labels).to_json()),
    )
    for (axes, title, chosen), stage in zip(panels, STAGES):
        rows = [row for row in chosen if row['stage'] == stage]
        cell = rows[0]['box'][2] - rows[0]['box'][0]
        axes.imshow(scene, alpha=0.75)
        for line in np.arange(0, side + 1, cell):
            axes.plot([line, line], [0, side], [0, side], [line, line], color='0.5', linewidth=0.6)
        names = sorted({row['label'] for row in rows if row['label']})
        places = {name: (side * 1.25, side * (i + 0.5) / len(names)) for i, name in enumerate(names)}
        stride = side / model.stem.img_size[0] * 4
        places[None] = tuple(cell * (position * stride // cell + 0.5) for position in PATCH[::-1])
        for row in rows:
            x0, y0, x1, y1 = row['box']
            colour = COLOURS[row['group'] - 1]
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color=colour, alpha=0.25, linewidth=0))
            shift = cell * (0.12 if row['group'] == 1 else -0.12)  # edges of both groups to one patch are both seen
            start, end = places[row['label']], ((x0 + x1) / 2, (y0 + y1) / 2 + shift)
            axes.plot(*zip(start, end), color=colour, linewidth=1.1, alpha=0.8)
            axes.plot(*end, marker='o', markersize=3, color=colour)
        for name in names or [None]:
            axes.plot(*places[name], marker='o', markersize=15 if name else 8, color='white', markeredgecolor='black')
            if name:
                axes.annotate(name, places[name], xytext=(12, 0), textcoords='offset points', va='center')
        axes.set_title(f'stage {stage}: neighbours of {title}')
        axes.set_xlim(0, side * (1.6 if names else 1))
        axes.set_ylim(side, 0)
        axes.set_aspect('equal')
        axes.axis('off')
    return figure


def draw_stages() -> Figure:
    """Draw the stages of the published model, with the shapes that go from one to the next."""
    model = timm.create_model('gkgnet_576', device='meta')
    figure = Figure(figsize=(10, 4.2), layout='constrained')
    axes = figure.subplots()
    sides = [SIZE // 2**i for i in range(2, 6)]
    columns = [('images', f'3 x {SIZE} x {SIZE}', ''), ('stem', f'{model.label_dims[0]} x {sides[0]} x {sides[0]}', '')]
    for i, (dim, side, stage) in enumerate(zip(model.label_dims, sides, model.stages), 1):
        pooled = side // stage.blocks[0].grapher.reduction
        text = f'{len(stage.blocks)} blocks: {side * side} nodes\namong {pooled * pooled}'
        columns.append((f'stage {i}', f'{dim} x {side} x {side}', text))
    columns.append(('mean', str(model.num_features), ''))

    def box(x: float, y: float, text: str, colour: str) -> None:
        axes.add_patch(FancyBboxPatch((x, y), 1.5, 0.75, boxstyle='round,pad=0.05', facecolor=colour, edgecolor='0.3'))
        axes.text(x + 0.75, y + 0.375, text, ha='center', va='center', fontsize=8)

    def arrow(start: tuple, end: tuple, colour: str = '0.3') -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=10, color=colour))

    for i, (name, shape, nodes) in enumerate(columns):
        x = 2 * i
        box(x, 2, f'{name}\n{shape}', '#dbe9f6')
        axes.text(x + 0.75, 3.1, nodes, ha='center', va='center', fontsize=7)
        if i:
            arrow((x - 0.45, 2.375), (x - 0.05, 2.375))
        if name.startswith('stage'):
            dim = shape.partition(' ')[0]
            box(x, 0, f'label block\n{model.num_classes} x {dim}', '#fbe3cf')
            arrow((x + 0.75, 1.95), (x + 0.75, 0.85), COLOURS[1])
            arrow((x - 0.45, 0.375), (x - 0.05, 0.375))
    box(2, 0, f'label nodes\n{model.num_classes} x {model.label_dims[0]}', '#fbe3cf')
    box(12, 0, f'{model.num_classes} scores', '#e3f1dc')
    arrow((11.55, 0.375), (11.95, 0.375))
    arrow((12.75, 1.95), (12.75, 0.85))
    axes.set_xlim(-0.2, 13.8)
    axes.set_ylim(-0.2, 3.5)
    axes.axis('off')
    return figure


def main(checkpoint: str) -> None:
    save_figure(draw_graph(gkgnet_timm.load_model(checkpoint)), FOLDER / 'graph.png')
    save_figure(draw_stages(), FOLDER / 'stages.png')


if __name__ == '__main__':
    main(sys.argv[1])
