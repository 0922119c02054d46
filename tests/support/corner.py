"""A model whose scores depend on known pixels alone, and explanations of it made by hand."""

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

from gkgnet_timm.explanation.frame import Frame
from gkgnet_timm.explanation.result import Chosen, Explanation, Grid, Label

SIDE, CELL = 32, 8
WHITE, GREY = 1.0, CELL**2 / SIDE**2  # of the corner, and on average of the image


def image():
    """Black, with a white cell at the upper left."""
    image = Image.new('RGB', (SIDE, SIDE), 'black')
    image.paste('white', (0, 0, CELL, CELL))
    return image


def corner_score(brightness):
    return 1 / (1 + np.exp(-4 * (brightness - 0.5)))


class CornerModel(nn.Module):
    """Scores 'corner' by the brightness of the cell at the upper left, and 'nothing' by no pixel.

    Args:
        layout: Order of dimensions of its last map, 'NCHW', 'NHWC' or 'NLC' after a class token.
    """

    def __init__(self, layout='NCHW', crop_mode='squash'):
        super().__init__()
        self.layout = layout
        self.maps = nn.Sequential(nn.AvgPool2d(CELL), Layout(layout))
        self.slope = nn.Parameter(torch.tensor(4.0), requires_grad=False)  # frozen
        self.feature_info = [dict(num_chs=3, reduction=CELL, module='maps')]
        self.num_classes = 2
        self.pretrained_cfg = dict(
            input_size=(3, SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0, crop_mode=crop_mode
        )
        self.modes = set()

    def forward(self, x):
        self.modes.add(self.training)
        maps = self.maps(x)
        first = {'NCHW': (..., 0, 0), 'NHWC': (slice(None), 0, 0), 'NLC': (slice(None), 1)}[self.layout]
        logits = self.slope * (maps[first].mean(dim=1) - 0.5)
        return torch.stack([logits, 2 + 0 * logits], dim=1)


class Layout(nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.layout = layout

    def forward(self, x):
        if self.layout == 'NHWC':
            return x.permute(0, 2, 3, 1)
        if self.layout == 'NLC':
            nodes = x.flatten(2).transpose(1, 2)
            return torch.cat([torch.full_like(nodes[:, :1], 9), nodes], dim=1)
        return x


def explanation(cells, label='corner', threshold=0.5, file='a.png', picture=None, stages=1):
    """Of cells (row, column), chosen in each of as many stages of the same cells."""
    scores = np.array([corner_score(WHITE), corner_score(1.0)], dtype=np.float32)
    names = ['corner', 'nothing']
    patches = [
        Chosen(label, stage, 1, rank, row, column, [0, 0, 0, 0], 0.5)  # boxes are for pictures
        for stage in range(1, stages + 1)
        for rank, (row, column) in enumerate(cells, 1)
    ]
    return Explanation(
        file=file,
        image=picture or image(),
        model='corner',
        class_names=names,
        scores=scores,
        labels=[Label(label, float(scores[names.index(label)]), threshold)],
        patches=patches,
        grids=[Grid(stage, SIDE // CELL, SIDE // CELL, (CELL, CELL)) for stage in range(1, stages + 1)],
        frame=Frame((SIDE, SIDE), (1, 1), (0, 0), (SIDE, SIDE)),
    )
