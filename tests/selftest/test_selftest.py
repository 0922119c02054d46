"""The self-test as a user calls it, on a machine that computes correctly and on one that does not."""

import json
import re

import pytest
import torch
from conftest import ROOT
from runs import check_one_line

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands import selftest as commands
from gkgnet_timm.graph import cpu, eager, operators, selection
from gkgnet_timm.selftest import machine, report
from gkgnet_timm.selftest.finding import FAIL, NOTE, OK, attempt, overall, without_paths
from gkgnet_timm.selftest.kernels import check_kernels
from gkgnet_timm.selftest.network import check_network, check_repeatability, create_network
from gkgnet_timm.selftest.run import selftest
from gkgnet_timm.selftest.shapes import SHAPES, Shape, make_nodes
from gkgnet_timm.selftest.speed import Load, _judge, check_speed, measure_at_length

CPU = torch.device('cpu')
SMALL = Load('gkgnet_ti_224', 32, 1, 2)


@pytest.fixture
def small(monkeypatch):
    """The command on small images. The kernels have all of their shapes."""
    monkeypatch.setattr(commands, 'selftest', lambda device: selftest(device, img_size=64, load=SMALL))


def test_a_machine_that_computes_correctly(small, tmp_path, capsys):
    command(['selftest', '--device', 'cpu', '--json', str(tmp_path / 'a.json')])
    printed = capsys.readouterr().out
    running, text = printed.split('\nFor an issue:\n')
    lines = re.findall(r'^(ok|FAIL|note)  +(.+?): (.+)$', running, re.M)
    verdicts = {check: verdict for verdict, check, _ in lines}
    for name in ('float32', 'bfloat16', 'float16', 'float64'):
        assert verdicts[f'search, {name}'] == verdicts[f'aggregation, {name}'] == OK
    for name in ('float32', 'bfloat16 autocast'):
        for what in ('inference', 'training step'):
            assert verdicts[f'{what} against float64, {name}'] == OK
    assert verdicts['order of equal scores'] == OK
    assert sum(check.startswith('speed of ') for check in verdicts) == 4 and FAIL not in verdicts.values()
    last = printed.splitlines()[-1]
    assert last.startswith('ok: this machine computes correctly') and f'**selftest {last}**' in text
    assert all(f'{check}: {figures}' in text for _, check, figures in lines)
    assert str(tmp_path) not in printed and str(ROOT) not in printed
    content = json.loads((tmp_path / 'a.json').read_text())
    assert content['passed'] and content['rows'] == [] and content['machine']['versions']['torch'] == torch.__version__
    assert [(found['verdict'], found['check'], found['text']) for found in content['findings']] == lines


def other_neighbors(scores, count):
    """The smallest in place of the last of the largest, in some rows."""
    index = selection.select_by_topk(scores, count)
    index[..., ::7, -1] = scores[..., ::7, :].argmin(-1)
    return index


def other_values(x, y, neighbors, keep_winner):
    out, winner = eager.interleave_max_relative(x, y, neighbors, keep_winner)
    out[0, -1, -1] = torch.nextafter(out[0, -1, -1].float(), torch.tensor(torch.inf)).to(out) * 2
    return out, winner


def other_winners(x, y, neighbors, keep_winner):
    out, winner = eager.interleave_max_relative(x, y, neighbors, keep_winner)
    return out, winner.roll(1, 1) if keep_winner else winner


@pytest.mark.parametrize(
    'operator, broken, kernel, check',
    [
        (selection.select_largest, other_neighbors, cpu.select_largest, 'search'),
        (operators.interleave_max_relative, other_values, cpu.interleave_max_relative, 'aggregation'),
        (operators.interleave_max_relative, other_winners, cpu.interleave_max_relative, 'aggregation'),
    ],
)
def test_a_kernel_that_is_broken(operator, broken, kernel, check, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, 'selftest', check_kernels)
    operator.register_kernel('cpu')(broken)
    try:
        with pytest.raises(SystemExit) as stopped:
            command(['selftest', '--device', 'cpu', '--json', str(tmp_path / 'a.json')])
    finally:
        operator.register_kernel('cpu')(kernel)
    printed = capsys.readouterr().out
    assert stopped.value.code == 1
    failed = set(re.findall(r'^FAIL  (\w+), float32: ', printed, re.M))
    assert failed == {check}
    text = printed.split('\nFor an issue:\n')[1]
    assert text.index('FAIL  ') < text.index('ok    ') and printed.splitlines()[-1].startswith('FAIL: ')
    assert not json.loads((tmp_path / 'a.json').read_text())['passed']


@pytest.mark.parametrize('factor', [1.01, float('nan')])
def test_a_model_that_computes_otherwise(factor, tmp_path):
    def broken(x, y, neighbors, keep_winner):
        out, winner = eager.interleave_max_relative(x, y, neighbors, keep_winner)
        return out * factor, winner

    model, images = create_network(64)
    operators.interleave_max_relative.register_kernel('cpu')(broken)
    try:
        inference, training, *_ = check_network(CPU, model, images)
        batches = list(check_repeatability(CPU, model, images))[-1]
    finally:
        operators.interleave_max_relative.register_kernel('cpu')(cpu.interleave_max_relative)
    assert inference.verdict == FAIL and inference.check == 'inference against float64, float32'
    assert training.verdict == (FAIL if factor != factor else OK)  # norms of a batch undo a factor
    report.write_json(str(tmp_path / 'a.json'), {}, [inference, training, batches], [])
    content = json.loads((tmp_path / 'a.json').read_text(), parse_constant=pytest.fail)
    assert (content['findings'][0]['figures']['error'] == 'nan') == (factor != factor)


def test_a_kernel_that_raises():
    def kernel():
        raise RuntimeError('no such\ninstruction')

    finding = attempt('search', kernel)
    assert str(finding) == 'FAIL  search: RuntimeError: no such instruction'

    def too_large():
        raise torch.OutOfMemoryError('40 GB')

    assert attempt('speed', too_large).verdict == NOTE
    assert overall([attempt('speed', too_large)]).startswith('ok: ')


def test_shapes_cover_what_the_search_is_for():
    assert len(SHAPES) == len(set(SHAPES)) == 40
    forms = {shape.form: make_nodes(shape, torch.float32, CPU) for shape in SHAPES}
    assert not forms['channels first'].x.is_contiguous() and not forms['with gaps'].y.is_contiguous()
    assert forms['in both roles'].x is forms['in both roles'].y
    assert forms['the same for all images'].x.stride(0) == 0
    assert forms['equal'].x.abs().unique().tolist() == [1.0]
    assert {shape.batch for shape in SHAPES} >= {1, 16} and {shape.grid for shape in SHAPES} >= {(1, 1), (11, 13)}
    assert any(shape.candidates < shape.k for shape in SHAPES)


def test_order_of_equal_scores(monkeypatch):
    """A selection in stable order is right. One in the opposite order fails, though its scores are the same."""
    shapes = [Shape(2, (6, 6), 40, 32, 2, 9, form='equal')]
    for flip, verdict in ((False, OK), (True, FAIL)):

        def select(scores, count, flip=flip):
            order = scores.flip(-1) if flip else scores
            index = order.sort(dim=-1, descending=True, stable=True)[1][..., :count]
            return scores.shape[-1] - 1 - index if flip else index

        monkeypatch.setattr(eager, 'select', select)
        *findings, order = check_kernels(CPU, shapes)
        assert order.check == 'order of equal scores' and order.verdict == verdict
        assert all(finding.verdict == OK for finding in findings)
        assert (order.figures['ties_in_another_order'] > 0) == flip
    *_, order = check_kernels(CPU, SHAPES[:1])
    assert order.verdict == NOTE and order.figures['tied'] == 0


def test_a_type_that_the_device_does_not_have(monkeypatch):
    monkeypatch.setattr('gkgnet_timm.selftest.kernels.has_type', lambda dtype, device: dtype != torch.float64)
    findings = {finding.check: finding.verdict for finding in check_kernels(CPU, SHAPES[:1])}
    assert findings['kernels, float64'] == NOTE and 'search, float64' not in findings


def test_why_kernels_are_not_in_use(monkeypatch, tmp_path):
    assert machine.check_compiled(torch.device('meta')).verdict == NOTE
    monkeypatch.setenv('CC', str(tmp_path / 'no-such-compiler'))
    cpu._load_kernels.cache_clear()
    try:
        finding = machine.check_compiled(CPU)
    finally:
        cpu._load_kernels.cache_clear()
    assert finding.verdict == NOTE and 'no-such-compiler' in finding.text and str(tmp_path) not in finding.text
    assert machine.describe(CPU)['C compiler'] == 'no-such-compiler, which does not start'


def test_what_is_measured_at_length(monkeypatch):
    """On a GPU everything that is open there; on a CPU nothing that needs a GPU."""
    calls = []

    def record(models, **options):
        calls.append((*models, options))
        return [dict(model=models[0])], {}

    monkeypatch.setattr('gkgnet_timm.selftest.speed.benchmark_models', record)
    for device, replayed in ((torch.device('cuda'), True), (CPU, False)):
        calls.clear()
        rows = [row for part in measure_at_length(device) for row in part]
        assert [row['model'] for row in rows] == 2 * ['gkgnet_448', 'gkgnet_576']
        assert [options['is_training'] for _, options in calls] == [False, False, True, True]
        assert [options['compare'] for _, options in calls] == [['tresnet_l'], [], [], []]
        assert all(options['with_replayed'] == bool(options['backend']) == replayed for _, options in calls)
        assert all(options['device'] == device.type for _, options in calls)


def test_times_in_words():
    verdict, text, _ = _judge({'float32': 19234.5, 'dense float32': 25912.0, 'bfloat16': 14.04, 'dense bfloat16': 7.0})
    assert text == 'float32 19,234 ms, dense graph 25,912 ms (1.3 x); bfloat16 14 ms, dense graph 7 ms (0.5 x)'
    assert verdict == NOTE


def test_devices_that_cannot_be_timed(monkeypatch, capsys):
    (finding,) = check_speed(torch.device('mps'), SMALL)
    assert finding.verdict == NOTE
    monkeypatch.setattr(commands, 'check_device', torch.device)
    for argv, message in (
        (['--device', 'mps', '--speed'], '--speed is for cpu and cuda, not for --device mps'),
        (['--device', 'cpu', '--json', 'no/such/folder.json'], "--json 'no/such/folder.json'"),
    ):
        check_one_line(['selftest', *argv], message, capsys)


@pytest.mark.parametrize(
    'text, expected',
    [
        ('/opt/x/bin/gcc: no file', 'gcc: no file'),
        (r'C:\Users\Some One\x', None),
        (r'see D:\work\a\cl.exe', 'see cl.exe'),
        ('~/.cache/x/y.so', 'y.so'),
        ('12 img/s of 3 / 4, float32/64', '12 img/s of 3 / 4, float32/64'),
    ],
)
def test_paths_are_left_out(text, expected):
    assert without_paths(text) == expected if expected else 'Users' not in without_paths(text)


def test_home_may_have_spaces(monkeypatch, tmp_path):
    home = tmp_path / 'Some One'
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.setenv('USERPROFILE', str(home))
    assert without_paths(f'{home}/a.c: in file of -I{home}/include') == 'a.c: in file of -I~include'


def test_rows_of_the_benchmark(monkeypatch, capsys, tmp_path):
    row = dict(model='gkgnet_448', img_size=448, batch_size=1, dtype='float32', mode='eager', is_training=False)
    rows = [dict(row, latency_ms=12.5), dict(row, mode='dense', error='cannot write /home/me/x')]
    monkeypatch.setattr(commands, 'selftest', lambda device: iter(()))
    monkeypatch.setattr(commands, 'measure_at_length', lambda device: iter([rows]))
    command(['selftest', '--speed', '--json', str(tmp_path / 'a.json')])
    printed = capsys.readouterr().out
    assert printed.count('| inference | gkgnet_448 | 448 | 1 | float32 | eager | 12.50 |') == 2
    assert printed.count('gkgnet_448, 448 px, dense: cannot write x') == 2 and '/home/me' not in printed
    assert json.loads((tmp_path / 'a.json').read_text())['rows'][1]['error'] == 'cannot write x'
    assert report.table(rows[:1]).count('\n') == 2
