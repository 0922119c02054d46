"""Figures, rooms and pictures of the page on the design are those of the repository."""

import configparser
import csv
import re
import runpy

import pytest
from conftest import ROOT

import timm

import gkgnet_timm  # noqa: F401
from gkgnet_timm.layers.block import Block

PAGE = (ROOT / 'docs' / 'design.md').read_text(encoding='utf-8')


def read(name):
    with open(ROOT / 'results' / f'{name}.csv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def test_rooms_are_those_that_are_checked():
    config = configparser.ConfigParser()
    config.read(ROOT / '.importlinter')
    layers = config['importlinter:contract:rooms']['layers'].split('\n')
    assert re.search(r'```text\n(.*?)\n```', PAGE, re.S)[1].splitlines() == [line for line in layers if line]


@pytest.mark.parametrize('size', [576, 224])
def test_share_of_the_search(size):
    model, nodes, products = timm.create_model(f'gkgnet_{size}', device='meta'), (size // 4) ** 2, 0
    for stage, dim in zip(model.stages, model.label_dims):
        for block in filter(lambda module: isinstance(module, Block), stage.modules()):
            products += nodes * nodes // block.grapher.reduction**2 * dim
        nodes //= 4
    cost = next(int(row['multiply_adds']) for row in read('cost') if row['model'] == f'gkgnet_{size}')
    assert f'{products / 1e9:.1f} G of {cost / 1e9:.1f} G at {size} px' in ' '.join(PAGE.split())


def test_measured_figures():
    known = {text for row in read('measured') for text in (row['value'], row['up_to'])}
    rows = [line for line in PAGE.splitlines() if line.endswith('| `results/measured.csv` |')]
    assert rows
    for row in rows:
        figures = re.findall(r'\d+\.?\d*', row.split('|')[2])
        assert set(figures) <= known, row


def test_figures_of_learning():
    text = (ROOT / 'results' / 'learning.md').read_text(encoding='utf-8')
    for figure in re.findall(r'\d+\.\d ± \d\.\d', PAGE):
        assert figure in text


def test_picture_of_the_stages_is_drawn(tmp_path):
    script = runpy.run_path(str(ROOT / 'docs' / 'make_design_pictures.py'))
    words = [text.get_text() for text in script['draw_stages']().axes[0].texts]
    assert 'stage 1\n80 x 144 x 144' in words and '2 blocks: 20736 nodes\namong 1296' in words
    assert 'label block\n80 x 640' in words
