"""The benchmark as a user calls it. No figure is held to a limit of time."""

import json
import os
import types

import pytest
import torch

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.benchmark import floor, grid, loading, startup, tables
from gkgnet_timm.benchmark import measure as measuring
from gkgnet_timm.benchmark.case import Case, create_model, create_step
from gkgnet_timm.benchmark.dense_model import DenseGraphConv
from gkgnet_timm.benchmark.floor import matrix_product_rate, multiply_adds
from gkgnet_timm.benchmark.grid import benchmark_models
from gkgnet_timm.benchmark.loading import benchmark_loading
from gkgnet_timm.commands.benchmark import main as benchmark
from gkgnet_timm.data import open_split

TINY = ['--models', 'gkgnet_ti_224', '--repeat', '1']


@pytest.fixture
def one_process(monkeypatch):
    """Measure memory in this process and the rate of matrix products with small ones, to save time."""
    monkeypatch.setattr(measuring, '_in_fresh_process', lambda function, *args: function(*args))
    monkeypatch.setattr(floor, 'MAX_SECONDS', 0.0)


def test_multiply_adds_of_training():
    inference, training = (multiply_adds('convnext_atto', 64, 80, is_training) for is_training in (False, True))
    stem = 16 * 16 * 40 * (4 * 4 * 3)  # the first convolution needs no gradient of images
    assert training == 3 * inference - stem  # grouped convolutions too
    knn = 3 * multiply_adds('gkgnet_ti_224', 64, 80, False) - multiply_adds('gkgnet_ti_224', 64, 80, True)
    assert knn > 0  # no gradient through the search


def test_inference_against_others(tmp_path, capfd, one_process):
    files = ['--json', str(tmp_path / 'rows.json'), '--plot', str(tmp_path / 'cost.png')]
    compare = ['--compare', 'test_resnet', 'test_vit']
    command(['benchmark', *TINY, '--img-sizes', '32', '64', *compare, *files])
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
    assert '| gkgnet_ti_224 | 32 | 1 | float32 | eager |' in captured.out
    assert (tmp_path / 'cost.png').read_bytes().startswith(b'\x89PNG')


def test_models_at_their_own_sizes(monkeypatch):
    """Each model at its own size, those to compare at all sizes, every mode once."""
    grids = []

    def measure(cases, repeat):
        grids.append([(case.model, case.img_size, case.mode, case.is_ours, case.backend) for case in cases])
        return []

    monkeypatch.setattr(grid, 'measure', measure)
    monkeypatch.setattr(floor, 'MAX_SECONDS', 0.0)
    models = ['gkgnet_448', 'gkgnet_224']
    rows, rates = benchmark_models(models, compare=['test_vit'], with_dense=False, is_training=True, backend='eager')
    modes = ['eager', 'compiled', 'checkpointing']
    assert rows == [] and rates['float32'] > 1e8
    assert grids == [
        [(f'gkgnet_{size}', size, mode, True, 'eager') for mode in modes]
        + [('test_vit', size, mode, False, 'eager') for mode in modes[:2]]
        for size in (224, 448)
    ]
    grids.clear()
    benchmark_models(['gkgnet_224'], compare=['test_vit'], img_sizes=[32], backend='eager', with_replayed=True)
    of_others = ['eager', 'compiled', 'eager replayed']
    assert [case[2] for case in grids.pop()] == [*of_others, 'dense', 'dense replayed', *of_others]
    benchmark_models(['gkgnet_224'], img_sizes=[64, 32], batch_sizes=[1, 2])
    assert [cases[0][1] for cases in grids] == [64, 64, 32, 32]
    assert [case[2] for case in grids[0]] == ['eager', 'dense'] and grids[0][0][4] == 'inductor'


@pytest.mark.parametrize('mode', ['eager', 'dense', 'checkpointing', 'eager replayed', 'dense replayed'])
def test_modes(mode):
    model = create_model(Case('pvig_ti_224', 32, num_classes=3, mode=mode))
    assert any(isinstance(module, DenseGraphConv) for module in model.modules()) == ('dense' in mode)
    assert all(stage.grad_checkpointing for stage in model.stages) == (mode == 'checkpointing')
    assert model.num_classes == 3 and not model.training


@pytest.mark.parametrize('is_training', [True, False])
def test_step(is_training):
    case = Case('test_resnet', 32, batch_size=2, is_training=is_training)
    model = create_model(case)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    create_step(case, model)()
    after = model.state_dict()
    changed = {key for key, _ in model.named_parameters() if not torch.equal(before[key], after[key])}
    assert {'conv1.0.weight', 'fc.weight', 'fc.bias'} <= changed if is_training else not changed
    assert torch.equal(before['bn1.running_mean'], after['bn1.running_mean']) != is_training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason='CUDA graphs need a GPU')
@pytest.mark.parametrize('mode', ['eager replayed', 'dense replayed'])
def test_replayed_step(mode):
    case = Case('gkgnet_ti_224', 64, batch_size=2, device='cuda', dtype='bfloat16', is_training=True, mode=mode)
    model = create_model(case)
    step = create_step(case, model)
    before = {key: value.clone() for key, value in model.named_parameters()}
    step()
    assert all(value.isfinite().all() for value in model.parameters())
    assert any(not torch.equal(before[key], value) for key, value in model.named_parameters())


def test_replayed_is_compared_with_replayed(one_process, monkeypatch):
    """Without a GPU nothing is recorded, but compared all the same."""
    monkeypatch.setattr('gkgnet_timm.benchmark.case.record', lambda step, device: step)
    modes = ['eager', 'dense', 'eager replayed', 'dense replayed']
    rows = measuring.measure([Case('gkgnet_ti_224', 32, num_classes=3, mode=mode) for mode in modes], 1)
    for own, dense in (rows[:2], rows[2:]):
        assert own['time_vs_dense'] == own['latency_ms'] / dense['latency_ms'] and dense['time_vs_dense'] == 1
    assert ['peak_gb' in row for row in rows] == [True, True, False, False]


def test_training_rows(capfd, one_process, monkeypatch):
    monkeypatch.setattr(grid, 'matrix_product_rate', lambda device, dtype: 1e9)
    rows = benchmark(['training', *TINY, '--img-sizes', '64', '-b', '2', '--amp-dtypes', 'bfloat16', '--no-dense'])
    assert [row['mode'] for row in rows] == ['eager', 'checkpointing']
    assert all(row['images_per_s'] == pytest.approx(2e3 / row['latency_ms']) for row in rows)
    assert all(row['floor_ms'] == pytest.approx(2e3 * row['giga_multiply_adds']) for row in rows)
    assert rows[0]['dtype'] == 'bfloat16' and rows[0]['multiply_adds'] == rows[1]['multiply_adds'] > 0
    assert '| gkgnet_ti_224 | 64 | 2 | bfloat16 | checkpointing |' in capfd.readouterr().out


def test_a_case_that_cannot_run_is_one_line(one_process):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled, other = measuring.measure(
        [Case('test_resnet', 32, mode='compiled', backend=backend), Case('test_vit', 32, dtype='nope')], 1
    )
    assert graphs and compiled['latency_ms'] > 0
    assert 'seconds' not in other and 'nope' in other['error'] and other['error'].count('\n') == 0


def test_memory_is_measured_in_a_fresh_process(monkeypatch):
    in_fresh_process = measuring._in_fresh_process
    assert in_fresh_process(os.getpid) != os.getpid()
    (row,) = measuring.measure([Case('test_resnet', 32)], 1)
    assert 0.05 < row['base_gb'] < row['peak_gb'] < 20 and row['construct_s'] > 0 and row['latency_ms'] > 0
    monkeypatch.setattr(measuring, '_in_fresh_process', lambda function, *args: in_fresh_process(os._exit, 1))
    (row,) = measuring.measure([Case('test_resnet', 32)], 1)
    assert row['error'] == 'its process was killed, perhaps for lack of memory' and 'seconds' not in row


def test_on_windows(tmp_path, capsys, one_process, monkeypatch):
    """Without the module and the folder of Unix all figures are there but those of memory."""
    monkeypatch.setattr(measuring, 'resource', None)
    monkeypatch.setattr(measuring, 'Path', lambda path: tmp_path / 'nothing')
    files = ['--json', str(tmp_path / 'rows.json'), '--plot', str(tmp_path / 'cost.png')]
    rows = benchmark([*TINY, '--img-sizes', '32', *files])
    captured = capsys.readouterr()
    assert len(rows) == 2 and all(row['latency_ms'] > 0 and row['time_vs_dense'] > 0 for row in rows)
    assert not [
        name for row in json.loads((tmp_path / 'rows.json').read_text())['rows'] for name in row if '_gb' in name
    ]
    assert 'construction, s' in captured.out and 'memory' not in captured.out
    assert captured.err == 'Memory is left out: Python does not tell that of a process on this system.\n'
    assert (tmp_path / 'cost.png').read_bytes().startswith(b'\x89PNG')


def test_loading(small_demo, capsys):
    timm_row, ours = benchmark(['loading', '--repeat', '1', '--img-sizes', '64', '-j', '1'])
    assert timm_row['pipeline'] == 'timm' and timm_row['time_vs_timm'] == 1 and ours['time_vs_timm'] > 0
    assert timm_row['model_images_per_s'] == ours['model_images_per_s'] > 0
    printed = capsys.readouterr().out
    assert '| published | 64 | 1 |' in printed and 'beside a training step of gkgnet_448' in printed


def test_startup(capsys, monkeypatch):
    """Of each process, the first one is real, fills the caches and does not count."""
    cpu_seconds, commands = startup._cpu_seconds, []

    def measure(command):
        if len(commands) < 2:
            assert cpu_seconds(command) > 0.5
        commands.append(command)
        return [90, 90, 4, 2, 8, 5, 6, 3][len(commands) - 1]

    monkeypatch.setattr(startup, '_cpu_seconds', measure)
    (row,) = benchmark(['startup', '--models', 'pvig_ti_224', '--img-sizes', '32', '--repeat', '3'])
    assert (row['predict_s'], row['floor_s'], row['time_vs_floor']) == (6, 3, 2)
    assert commands == 4 * commands[:2] and 'predict' in commands[0] and 'predict' not in commands[1]
    assert '| pvig_ti_224 | 32 |' in capsys.readouterr().out
    monkeypatch.setattr(startup, 'resource', None)  # as on Windows
    with pytest.raises(OSError, match='CPU time of other processes'):
        startup.benchmark_startup('pvig_ti_224', 32)


def test_loading_rates(small_demo, monkeypatch):
    """By a clock of one second an epoch, but four for the published pipeline after the warm-up, and steps of a half."""
    ticks = iter([0, 1, 0, 1, 0, 1, 0, 4])
    monkeypatch.setattr(loading, 'time', types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    seconds = iter([100, 0.5])  # the first step warms up
    monkeypatch.setattr(loading, 'seconds_of', lambda step, device: step() or next(seconds))
    dataset = open_split('demo')
    rows = benchmark_loading(dataset, 64, workers=0, repeat=1)
    assert [row['pipeline'] for row in rows] == ['timm', 'published']
    assert [row['images_per_s'] for row in rows] == [len(dataset), len(dataset) / 4]
    assert [row['time_vs_timm'] for row in rows] == [1, 4]
    assert [row['model_images_per_s'] for row in rows] == [4, 4]


def test_markdown():
    rows = [dict(pipeline='timm', img_size=64, images_per_s=1234.5678), dict(pipeline='published', workers=2)]
    assert tables.markdown(rows, tables.LOADING) == (
        '| pipeline | px | workers | img/s | model, img/s | time / timm |\n|---|---|---|---|---|---|\n'
        '| timm | 64 | - | 1234.57 | - | - |\n| published | - | 2 | - | - | - |'
    )


def test_plot_has_a_line_for_each_model_and_mode(tmp_path, monkeypatch):
    figures = []

    def create_figure(**kwargs):
        figures.append(evaluation_figure(**kwargs))
        return figures[-1]

    def row(model, size, latency, mode='eager', is_ours=True, **kwargs):
        row = dict(model=model, img_size=size, latency_ms=latency, peak_gb=latency / 10, mode=mode, is_ours=is_ours)
        return dict(row, batch_size=1, dtype='float32', **kwargs)

    evaluation_figure = tables.create_figure
    monkeypatch.setattr(tables, 'create_figure', create_figure)
    rows = [row('gkgnet_448', 448, 8.0), row('gkgnet_224', 224, 2.0), row('gkgnet_224', 224, 4.0, mode='dense')]
    rows += [row('resnet50', 224, 1.0, is_ours=False), row('resnet50', 448, 3.0, error='too big')]
    tables.draw_plot(str(tmp_path / 'cost.svg'), rows, 'costs')
    for axes, scale in zip(figures[0].axes, (1, 10)):
        assert {line.get_label(): (line.get_linestyle(), *map(list, line.get_data())) for line in axes.lines} == {
            'gkgnet, eager': ('-', [224, 448], [2 / scale, 8 / scale]),
            'gkgnet, dense': ('--', [224], [4 / scale]),
            'resnet50, eager': (':', [224], [1 / scale]),
        }
    legend = figures[0].axes[1].get_legend().get_texts()
    assert {text.get_text() for text in legend} == {'gkgnet, eager', 'gkgnet, dense', 'resnet50, eager'}
    assert (tmp_path / 'cost.svg').read_text().startswith('<?xml')
    tables.draw_plot(str(tmp_path / 'many.png'), [row(f'net{i}', 224, i + 1.0) for i in range(20)], 'costs')
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figures[1].axes[0].lines}
    assert len(looks) == 20


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--models', 'resnet18'], "'resnet18'"),
        (['--compare', 'nope'], "'nope'"),
        (['--img-sizes', '224', '100'], '100 is not a multiple of 32'),
        (['--models', 'vig_ti_224', '--img-sizes', '48', '40'], '40 is not a multiple of 16'),
        (['-b', '4', '0'], 'at least 1, got 0'),
        (['--repeat', '0'], 'at least 1, got 0'),
        (['--device', 'cuda:99'], "--device 'cuda:99'"),
        (['--device', 'nope'], "'nope' is not cpu"),
        (['--amp-dtypes', 'int8'], "'int8' is not one of"),
        (['--compile', 'nope'], "'nope' is not one of"),
        (['--json', 'no/such/folder.json'], "'no/such/folder.json': there is no such folder"),
        (['--plot', 'cost.txt'], 'cost.txt'),
        (['loading', '--plot', 'cost.png'], 'loading'),
        (['startup', '--plot', 'cost.png'], '--plot is not for benchmark startup'),
        (['startup', '--compare', 'tresnet_l'], '--compare is not for'),
        (['loading', '-b', '4'], '--batch-size is not for'),
        (['cost', '--device', 'cuda'], 'cuda'),
        (['cost', '--plot', 'cost.png'], 'cost'),
        (['training', '--csv', 'rows.csv'], '--csv is not for benchmark training'),
        (['cost', '--csv', 'no/such/folder.csv'], "'no/such/folder.csv': there is no such folder"),
    ],
)
def test_errors_before_measuring(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(['benchmark', *argv])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count('\n') == 1 and message in error


def test_rate_of_matrix_products():
    assert matrix_product_rate('cpu', 'float32') > 1e8
