"""The benchmark as a user calls it. What it measures is not held to any time."""

import json

import pytest
import torch

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.benchmark import main as benchmark
from gkgnet_timm.benchmark import measure as measuring
from gkgnet_timm.benchmark.case import Case
from gkgnet_timm.benchmark.floor import matrix_product_rate, multiply_adds
from gkgnet_timm.data import demo


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(measuring, '_in_fresh_process', lambda function, *args: function(*args))


TINY = ['--models', 'gkgnet_ti_224', '--repeat', '1']


@pytest.mark.parametrize('img_size, expected', [(224, 5.19e9), (448, 21.86e9), (576, 39.94e9)])
def test_multiply_adds_of_the_paper_with_the_knn_product(img_size, expected):
    assert multiply_adds('gkgnet_576', img_size, 80, False) == pytest.approx(expected, rel=0.01)


def test_multiply_adds_of_training():
    inference, training = (multiply_adds('convnext_atto', 64, 80, is_training) for is_training in (False, True))
    assert 2.5 * inference < training <= 3 * inference  # grouped convolutions too; none for the gradient of images
    knn = 3 * multiply_adds('gkgnet_ti_224', 64, 80, False) - multiply_adds('gkgnet_ti_224', 64, 80, True)
    assert knn > 0  # no gradient through the search


def test_inference_against_others(tmp_path, capfd, one_process):
    files = ['--json', str(tmp_path / 'rows.json'), '--plot', str(tmp_path / 'cost.png')]
    compare = ['--compare', 'test_resnet', 'test_vit']
    command(['benchmark', *TINY, '--img-sizes', '64', '96', *compare, *files])
    captured = capfd.readouterr()
    content = json.loads((tmp_path / 'rows.json').read_text())
    assert content['machine']['threads'] == torch.get_num_threads()
    rate = content['machine']['giga_multiply_adds_per_s']['float32']
    names = [('gkgnet_ti_224', 'eager'), ('gkgnet_ti_224', 'dense'), ('test_resnet', 'eager'), ('test_vit', 'eager')]
    assert [(row['model'], row['mode']) for row in content['rows']] == 2 * names
    for row in content['rows']:
        assert len(row['seconds']) == 1 and row['latency_ms'] == 1e3 * row['seconds'][0]
        assert 0 < row['construct_s'] and 0 <= row['construct_gb'] < row['peak_gb']
        floor_ms = row['giga_multiply_adds'] / rate * 1e3
        assert row['time_vs_floor'] == pytest.approx(row['latency_ms'] / floor_ms)
        assert ('time_vs_dense' in row) == row['is_ours']
    ours, dense = content['rows'][:2]
    assert ours['time_vs_dense'] == ours['latency_ms'] / dense['latency_ms'] and dense['memory_vs_dense'] == 1
    assert '| gkgnet_ti_224 | 64 | 1 | float32 | eager |' in captured.out
    assert (tmp_path / 'cost.png').read_bytes().startswith(b'\x89PNG')


def test_training_rows(capfd):
    rows = benchmark(['training', *TINY, '--img-sizes', '64', '-b', '2', '--amp-dtypes', 'bfloat16', '--no-dense'])
    assert [row['mode'] for row in rows] == ['eager', 'checkpointing']
    assert all(row['images_per_s'] == pytest.approx(2e3 / row['latency_ms']) for row in rows)
    assert rows[0]['dtype'] == 'bfloat16' and rows[0]['multiply_adds'] == rows[1]['multiply_adds'] > 0
    assert '| gkgnet_ti_224 | 64 | 2 | bfloat16 | checkpointing |' in capfd.readouterr().out


def test_a_model_that_can_not_run_is_one_line(one_process):
    ours, other = measuring.measure(
        [Case('gkgnet_ti_224', 32, mode='compiled', backend='eager'), Case('crossvit_9_240', 32, dtype='nope')], 1
    )
    assert ours['latency_ms'] > 0 and 'seconds' not in other and other['error'].count('\n') == 0


def test_loading(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(demo, 'SPLITS', {'train': 19, 'val': 11})
    timm_row, ours = benchmark(['loading', '--repeat', '1', '--img-sizes', '64', '-j', '1'])
    assert timm_row['pipeline'] == 'timm' and timm_row['time_vs_timm'] == 1 and ours['time_vs_timm'] > 0
    assert '| published | 64 | 1 |' in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--models', 'resnet18'], "'resnet18'"),
        (['--compare', 'nope'], "'nope'"),
        (['--img-sizes', '224', '100'], '100 is not a multiple of 32'),
        (['-b', '4', '0'], 'at least 1, got 0'),
        (['--repeat', '0'], 'at least 1, got 0'),
        (['--device', 'cuda:99'], 'CUDA devices here'),
        (['--device', 'nope'], "'nope' is not cpu"),
        (['--amp-dtypes', 'int8'], "'int8' is not one of"),
        (['--compile', 'nope'], "'nope' is not one of"),
        (['--json', 'no/such/folder.json'], 'no/such/folder.json'),
        (['--plot', 'cost.txt'], 'cost.txt'),
        (['loading', '--plot', 'cost.png'], 'loading'),
    ],
)
def test_errors_before_measuring(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(['benchmark', *argv])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count('\n') == 1 and message in error


def test_rate_of_matrix_products():
    assert matrix_product_rate('cpu', 'float32') > 1e8
