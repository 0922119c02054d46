"""Write docs/model-zoo.md from the registered weights and results/*.csv.

Run it in the root of the repository: PYTHONPATH=. python docs/make_model_zoo.py
"""

import csv
import itertools
from pathlib import Path
from typing import Any, Dict, List, Sequence

import gkgnet_timm  # noqa: F401, registers the models
from gkgnet_timm.benchmark.tables import markdown
from gkgnet_timm.weights.table import weights_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'model-zoo.md'

TEXT = """# Models, weights and figures

<!-- Written by docs/make_model_zoo.py from the registered weights and results/*.csv. Change those, not this page. -->

GKGNet does not have the highest mAP on COCO-2014: at 448 px ML-Decoder on TResNet-L is published with {decoder_mAP},
GKGNet with {gkgnet_mAP}. What GKGNet alone has is a graph: `model.forward_graph` says which patches every label
chose. It is smaller, too: at 448 px `gkgnet_448` has {parameters} of the parameters of `tresnet_l`
and {multiply_adds} of its multiply-adds. We measured that it takes {cpu} of its time on a CPU, but {gpu} on a GPU.

We have not trained these models to the published figures ourselves. Figures of accuracy are those of papers and
repositories (`results/published.csv`), figures of time are our own (`results/measured.csv`).

## Weights

{weights}

*Trunk* weights are those of Pyramid ViG; the label branch is to be trained. All weights come from their authors' pages
on GitHub and Google Drive. `python -m gkgnet_timm weights` prints this table and where weights are installed. For
Pyramid ViG M and B the table of the authors gives 51.7 and 82.6 M parameters; their published weights have 49.5 and
93.0 M, and so have these models.

## Published accuracy

{published}

The published training of GKGNet chooses its best checkpoint on the test split: its figures are those of the checkpoint
that did best on the images of the test. Other rows differ in more than the model, such as the data of pretraining.

## Cost

{cost}

Millions of parameters, billions of multiply-adds and millions of activations for one image, as counted by
`python -m gkgnet_timm benchmark cost --csv results/cost.csv`: with 80 classes, `pvig` and `vig` with 1000.
Multiply-adds are those of convolutions and matrix products, the kNN product included. Activations are the outputs of
convolutions and linear layers, as in timm's tables. `resnet101` is the trunk of Query2Label without its decoder; the
head of ML-Decoder is timm's.

## The label graph on models of timm

{backbones}

Millions of parameters and billions of multiply-adds of backbones at 448 px, and what a label graph of 80 classes adds:
with label nodes as wide as each map (at most 640), and with `label_dim=256`. Each one was built, trained for two steps
and asked for its graph, by `python results/backbones.py`.

## Time

{measured}
*Dense* models build their graph as the published code does. `tresnet_l` has its plain head.
"""


def read(name: str) -> List[Dict[str, str]]:
    with open(ROOT / 'results' / f'{name}.csv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def table(rows: Sequence[Dict[str, Any]], **columns: str) -> str:
    """A table of some columns, with - for what is empty."""
    return markdown([{name: row[name] or None for name in columns} for row in rows], columns)


def source(text: str) -> str:
    """A link to a paper or repository."""
    if text.startswith('arXiv:'):
        return f'[{text}](https://arxiv.org/abs/{text.removeprefix("arXiv:")})'
    return f'[{"/".join(text.split("/")[-2:])}]({text})'


def measured_time(rows: Sequence[Dict[str, str]]) -> str:
    """A table for each machine, with a row for each figure and a column for each model."""
    parts = []
    for machine, group in itertools.groupby(rows, lambda row: (row['date'], row['device'], row['versions'])):
        columns, figures, commands = {}, {}, {}
        for row in group:
            key = f'{row["model"]} {row["img_size"]}'
            columns[key] = f'`{row["model"]}`, {row["img_size"]} px'
            value = f'{row["value"]} to {row["up_to"]}' if row['up_to'] else row['value']
            figures.setdefault(row['figure'] + ' *' * (not row['command']), {})[key] = value
            commands[row['command']] = None
        table = markdown([dict(figure=name, **values) for name, values in figures.items()], dict(figure='', **columns))
        sources = [f'`{command}`' if command else '* by no command of the package' for command in commands]
        parts.append(f'{", ".join(filter(None, machine))}: {", ".join(sources)}.\n\n{table}\n')
    return '\n'.join(parts)


def make_page() -> str:
    """Return the text of the page."""
    costs = {(row['model'], row['img_size']): row for row in read('cost')}
    published, measured = read('published'), read('measured')
    weights = []
    for row in weights_table():
        cost = costs[row.name.partition('.')[0], str(row.img_size)]
        weights.append(
            dict(
                name=f'`{row.name}`',
                num_classes=row.num_classes or 'trunk',
                source=row.source,
                licence=row.licence,
                img_size=row.img_size,
                parameters=f'{int(cost["parameters"]) / 1e6:.1f}',
                multiply_adds=f'{int(cost["multiply_adds"]) / 1e9:.2f}',
                published=row.published,
            )
        )
    ours, theirs = costs['gkgnet_448', '448'], costs['tresnet_l', '448']
    mAP = {(row['model'], row['img_size']): row['value'] for row in published if row['metric'] == 'mAP'}
    cpu = next(row for row in measured if row['figure'] == 'time / tresnet_l')
    inference = 'inference of 16 images in bf16, ms'
    gpu = {row['model']: float(row['value']) for row in measured if row['figure'] == inference}
    return TEXT.format(
        decoder_mAP=mAP['tresnet_l + ML-Decoder', '448'],
        gkgnet_mAP=mAP['gkgnet_448', '448'],
        parameters=f'{int(ours["parameters"]) / int(theirs["parameters"]):.2f}',
        multiply_adds=f'{int(ours["multiply_adds"]) / int(theirs["multiply_adds"]):.2f}',
        cpu=f'{cpu["value"]} to {cpu["up_to"]}',
        gpu=f'{gpu["gkgnet_448"] / gpu["tresnet_l"]:.2f}',
        weights=table(
            weights,
            name='weights',
            num_classes='classes',
            source='source',
            licence='licence',
            img_size='px',
            parameters='M parameters',
            multiply_adds='G multiply-adds',
            published='published',
        ),
        published=table(
            [row | dict(source=source(row['source'])) for row in published],
            model='model',
            img_size='px',
            data='data',
            metric='metric',
            value='published',
            source='source',
            note='note',
        ),
        cost=table(
            [
                row
                | dict(
                    parameters=f'{int(row["parameters"]) / 1e6:.2f}',
                    multiply_adds=f'{int(row["multiply_adds"]) / 1e9:.2f}',
                    activations=f'{int(row["activations"]) / 1e6:.1f}',
                )
                for row in costs.values()
            ],
            model='model',
            img_size='px',
            parameters='M parameters',
            multiply_adds='G multiply-adds',
            activations='M activations',
        ),
        backbones=table(
            [
                dict(
                    backbone=f'`{row["backbone"]}`',
                    **{key: f'{int(row[key]) / 1e6:.1f}' for key in row if key.startswith('parameters')},
                    **{key: f'{int(row[key]) / 1e9:.1f}' for key in row if key.startswith('multiply_adds')},
                    **{key: f'{float(row[key]):.1%}' for key in row if key.startswith('share')},
                )
                for row in read('backbones')
            ],
            backbone='backbone',
            parameters='M parameters',
            multiply_adds='G multiply-adds',
            parameters_own='+ M parameters',
            multiply_adds_own='+ G multiply-adds',
            share_own='share',
            parameters_256='256: + M parameters',
            multiply_adds_256='+ G multiply-adds',
            share_256='share',
        ),
        measured=measured_time(measured),
    )


if __name__ == '__main__':
    PAGE.write_text(make_page(), encoding='utf-8')
