"""The figures in results/, the page that is made of them, and what the package says of them."""

import csv
import runpy

import pytest
import torch
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

import timm

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.benchmark.cost import OTHERS, OTHERS_SIZE, count_cost
from gkgnet_timm.benchmark.floor import run_on_shapes
from gkgnet_timm.commands.weights import main as weights
from gkgnet_timm.weights.source import MODULES, installed_file
from gkgnet_timm.weights.table import GIGA_MULTIPLY_ADDS, PUBLISHED, weights_table


def read(name):
    with open(ROOT / 'results' / f'{name}.csv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


COST = {(row['model'], int(row['img_size'])): row for row in read('cost')}


def test_cost_has_every_model():
    names = timm.list_models(module=MODULES)
    sizes = {name: timm.get_pretrained_cfg_value(name, 'input_size')[-1] for name in names}
    assert COST.keys() == {*sizes.items(), *((name, OTHERS_SIZE) for name in OTHERS)}


@pytest.mark.parametrize('name, img_size', COST)
def test_cost_is_that_of_the_code(name, img_size):
    expected = COST[name, img_size]
    row = count_cost(name, img_size, int(expected['num_classes']))
    assert {key: str(value) for key, value in row.items()} == expected


@pytest.mark.parametrize('img_size, expected', [(224, 5.19e9), (448, 21.86e9), (576, 39.94e9)])
def test_multiply_adds_of_the_paper_with_the_knn_product(img_size, expected):
    assert int(COST[f'gkgnet_{img_size}', img_size]['multiply_adds']) == pytest.approx(expected, rel=0.01)


def test_activations_are_those_of_timm():
    row = count_cost('resnet101', 224, 1000)
    assert row['activations'] / 1e6 == pytest.approx(16.23, abs=0.005)  # of timm's own table
    assert row['multiply_adds'] / 1e9 == pytest.approx(7.80, abs=0.03)  # there 7.83
    assert row['parameters'] == 44_549_160


def test_cost_is_written(tmp_path, capsys):
    path = tmp_path / 'cost.csv'
    flags = ['--models', 'pvig_ti_224', '--compare', 'test_resnet', '--img-sizes', '64', '--num-classes', '3']
    command(['benchmark', 'cost', *flags, '--csv', str(path)])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row['model'], row['img_size'], row['num_classes']) for row in rows] == [
        ('pvig_ti_224', '64', '3'),
        ('test_resnet', '64', '3'),
    ]
    model = timm.create_model('test_resnet', num_classes=3)
    assert int(rows[1]['parameters']) == sum(parameter.numel() for parameter in model.parameters())
    assert f'| test_resnet | 64 | 3 | {rows[1]["parameters"]} |' in capsys.readouterr().out


def test_a_model_that_cannot_be_counted():
    with pytest.raises(ValueError, match="'test_vit' cannot be counted at 63 px"):
        count_cost('test_vit', 63, 3)


def test_cost_of_a_label_graph_on_a_backbone():
    """By the paper: every node is compared with every patch of a map, and passes 12 C^2 weights of a label block."""
    counts = []
    for num_classes in (0, 7):
        with torch.device('meta'):
            model = timm.create_model('gkgnet_backbone', backbone='test_resnet', num_classes=num_classes)
        counter = FlopCounterMode(display=False)
        images = run_on_shapes(model, 64, counter)
        counts.append(counter.get_total_flops() // 2 // images)
    dims = model.label_dims
    expected = 7 * model.pooled_dim
    for i, (dim, info) in enumerate(zip(dims, model.feature_info)):
        patches = (64 // info['reduction']) ** 2
        expected += 7 * (patches * dim + 12 * dim**2 + (dims[i - 1] * dim if i else 0))
    assert counts[1] - counts[0] == expected


def test_page_is_that_of_the_figures():
    script = runpy.run_path(str(ROOT / 'docs' / 'make_model_zoo.py'))
    assert script['PAGE'].read_text(encoding='utf-8') == script['make_page'](), 'run docs/make_model_zoo.py'


def test_figures_of_the_package_are_those_of_results():
    published = {row['weights']: f'{row["value"]} {row["metric"]} on {row["data"]}' for row in read('published')}
    published.pop('')
    assert published == PUBLISHED
    own = {name: int(row['multiply_adds']) for (name, size), row in COST.items() if name not in OTHERS}
    assert {name: round(count / 1e9, 2) for name, count in own.items()} == GIGA_MULTIPLY_ADDS


def test_sources_of_published_figures():
    for row in read('published'):
        assert row['source'].startswith(('arXiv:', 'https://github.com/')) and float(row['value'])
    names = {name for name, _ in COST}
    assert {row['model'] for row in read('measured')} <= names | {f'{name} dense' for name in names}


def test_weights_table(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path))
    rows = {row.name: row for row in weights_table()}
    assert list(rows) == timm.list_models(pretrained=True, module=MODULES)
    for name, row in rows.items():
        cost = COST[name.partition('.')[0], row.img_size]
        assert row.parameters == int(cost['parameters'])
        assert row.num_classes == (int(cost['num_classes']) if row.published else None)
    coco, trunk, pvig = (rows[name] for name in ('gkgnet_576.coco2014', 'gkgnet_448.in1k', 'pvig_s_224.in1k'))
    assert coco.num_classes == 80 and coco.licence == 'non-commercial use only' and coco.img_size == 576
    assert coco.source == 'Google Drive' and trunk.source == pvig.source == 'GitHub'
    assert pvig.licence == 'apache-2.0'
    assert trunk.file == pvig.file and not pvig.is_installed


def test_weights_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path))
    file = installed_file(timm.get_pretrained_cfg('pvig_s_224.in1k'))
    file.parent.mkdir(parents=True)
    file.touch()
    printed = []
    for argv in ([], ['list']):
        weights(argv)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    lines = {line.split(' | ')[0].strip('| '): line for line in printed[0].splitlines()}
    installed = {name for name, line in lines.items() if line.endswith(f'| {file} |')}
    assert installed == {'gkgnet_224.in1k', 'gkgnet_448.in1k', 'gkgnet_576.in1k', 'pvig_s_224.in1k'}
    assert '| 1000 | GitHub | apache-2.0 | 224 | 27.25 | 4.55 | 82.1 top-1 on ImageNet-1k |' in lines['pvig_s_224.in1k']
    assert '| trunk | GitHub | apache-2.0 | 448 | 34.02 | 21.86 | - |' in lines['gkgnet_448.in1k']
