"""What the label graph adds to backbones of timm, and that it trains on each: writes results/backbones.csv.

Run it in the root of the repository, in about 10 minutes: PYTHONPATH=. python results/backbones.py
"""

import csv
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import timm

import gkgnet_timm  # noqa: F401, registers the models
from gkgnet_timm.benchmark.floor import run_on_shapes

SIZE, CLASSES = 448, 80
BACKBONES = [  # of different families, with the arguments that take them to the size
    'resnet101',
    'regnety_080',
    'efficientnet_b5',
    'convnext_base',
    'convnextv2_tiny',
    'swin_small_patch4_window7_224',
    'swinv2_small_window8_256',
    'maxvit_tiny_tf_224',
    'mobilenetv4_conv_large',
    'vit_base_patch16_224',
    'eva02_base_patch14_224',
    'hiera_small_224',
]


def count(**kwargs):
    """Parameters, and multiply-adds for an image, of a label graph without values."""
    with torch.device('meta'):
        model = timm.create_model('gkgnet_backbone', img_size=SIZE, **kwargs)
    counter = FlopCounterMode(display=False)
    images = run_on_shapes(model, SIZE, counter)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2 // images


def train(name):
    """Loss before and after a step on one batch at the size of the backbone's weights, and shapes of its graph."""
    torch.manual_seed(0)
    model = timm.create_model('gkgnet_backbone', backbone=name, num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(4, *model.pretrained_cfg['input_size'])
    targets = (torch.rand(4, CLASSES) < 0.1).float()
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), name
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        graph = model.eval().forward_graph(images[:1])
    assert all(len(nodes) == 1 for nodes in graph.label_nodes)
    return losses, [tuple(index[-1].shape[1:]) for index in graph.neighbors]


def main():
    rows = []
    for name in BACKBONES:
        parameters, multiply_adds = count(backbone=name, num_classes=0)
        row = dict(backbone=name, img_size=SIZE, parameters=parameters, multiply_adds=multiply_adds)
        for label_dim in (None, 256):
            more, adds = count(backbone=name, num_classes=CLASSES, label_dim=label_dim)
            width = label_dim or 'own'
            row[f'parameters_{width}'], row[f'multiply_adds_{width}'] = more - parameters, adds - multiply_adds
            row[f'share_{width}'] = f'{(adds - multiply_adds) / multiply_adds:.3f}'
        losses, graph = train(name)
        row.update(loss=f'{losses[0]:.3f}', loss_after=f'{losses[1]:.3f}', maps=len(graph), groups=graph[0][0])
        rows.append(row)
        print(row, flush=True)
    with Path(__file__).with_suffix('.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
