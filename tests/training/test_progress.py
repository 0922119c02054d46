"""What a run prints on its way, to a pipe and on a terminal of 80 columns."""

import pytest
from runs import TINY
from screen import Screen

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.training import epoch as epoch_module
from gkgnet_timm.training import progress


def show(shown, epoch, updates, clock, seconds=2, images=8, loss=7.0):
    with shown.show(epoch):
        for update in range(updates):
            clock[0] += seconds
            shown.update(update, images, loss - update, 1e-3 * (update + 1))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'perf_counter', lambda: now[0])
    return now


def test_lines_of_a_resumed_run(clock, capsys):
    """Three epochs of five updates, of which the first is done; each update takes two seconds."""
    shown = progress.Progress(3, 1, 5, 2)
    for epoch in (1, 2):
        show(shown, epoch, 5, clock)
    assert capsys.readouterr().out.splitlines() == [
        f'epoch {epoch + 1}/3 [   {done}/5]  loss {8 - done:7.3f}  lr {done}.00e-03  4.0 img/s  0:00:{left:02} left'
        for epoch in (1, 2)
        for done, left in ((2, 26 - 10 * epoch), (4, 22 - 10 * epoch), (5, 20 - 10 * epoch))
    ]


def test_bars_of_a_resumed_run(clock, capsys):
    with Screen() as screen:
        shown = progress.Progress(3, 1, 5, 2)
        for epoch in (1, 2):
            show(shown, epoch, 5, clock)
    assert [line.replace('█', '') for line in screen.lines] == [
        f'epoch {epoch}/3 || 5/5, loss 3.000, 4.0 img/s, 00:{left:02} left in all' for epoch, left in ((2, 10), (3, 0))
    ]
    assert {len(line) for line in screen.drawn} == {77} and capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'loss, text', [(1234567.8, '1234568'), (-1e9, '-1.0e+09'), (999.1234, '999.123'), (float('nan'), 'nan')]
)
def test_the_longest_bar_is_not_cut(loss, text, clock):
    """Epochs, updates and images a second of four digits, and 99 hours. Room for four more characters is left."""
    with Screen() as screen:
        shown = progress.Progress(1000, 998, 9999, 50)
        show(shown, 998, 1, clock, seconds=17.9, images=99990, loss=loss)
    (line,) = screen.lines
    assert line.startswith('epoch 999/1000 |    ') and len(line) == 77, line
    assert line.endswith(f'| 1/9999, loss {text}, 5586 img/s, 99:25:46 left in all')
    with Screen() as screen:
        shown = progress.Progress(1000, 999, 1, 50)
        show(shown, 999, 1, clock)
    assert screen.lines[0].startswith('epoch 1000/1000 |█') and '| 1/1, loss 7.000' in screen.lines[0]


@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
def test_lines_where_one_stream_is_a_pipe(stream, clock):
    """To `tee`, say: a bar on the other stream would be on the same terminal."""
    with Screen(to_pipe=stream) as screen:
        show(progress.Progress(1, 0, 2, 1), 0, 2, clock)
    lines = [] if stream == 'stdout' else ['epoch 1/1 [   1/2]', 'epoch 1/1 [   2/2]']
    assert [line[:18] for line in screen.drawn] == lines


def test_screen_of_a_run(small_demo, tmp_path, monkeypatch):
    """Bars of training and its metrics stay, in order; those of evaluation go. A resumed run goes on the same way."""
    flags = [*TINY, '--output', str(tmp_path), '--experiment', 'run']
    with Screen() as screen:
        train(flags)
    lines = [line for line in screen.lines if line.startswith('epoch ')]
    assert [line[:11] for line in lines] == ['epoch 1/2 |', 'epoch 1: mA', 'epoch 2/2 |', 'epoch 2: mA'], lines
    assert all('| 3/3, loss ' in line and line.endswith(' left in all') for line in lines[::2])
    bars = [line for line in screen.drawn if line.startswith('evaluating epoch ')]
    assert '| 0/11, ? img/s, ? left' in bars[0] and '| 11/11, ' in bars[-1] and bars[-1].endswith('00:00 left')
    assert max(len(line) for line in screen.drawn if '|' in line) == 77
    with Screen() as screen:
        train([*flags, '--epochs', '3', '--resume', str(tmp_path / 'run' / 'last.pth.tar')])
    assert [line[:11] for line in screen.lines if line.startswith('epoch ')] == ['epoch 3/3 |', 'epoch 3: mA']
    with Screen(to_pipe='stdout') as screen:
        train([*flags, '--epochs', '4', '--resume', str(tmp_path / 'run' / 'last.pth.tar')])
    assert not screen.drawn


def test_what_interrupts_a_bar_has_a_line_of_its_own(small_demo, tmp_path, monkeypatch):
    monkeypatch.setattr(epoch_module, '_is_finite', lambda *args: False)
    flags = ['train', *TINY, '--output', str(tmp_path), '--max-bad-steps', '1']
    with Screen() as screen, pytest.raises(SystemExit):
        command(flags)
    skipped, bar, error = screen.lines[-3:]
    assert skipped.startswith('Skipped an update: ') and skipped.endswith('at epoch 1, update 1 of 3.')
    assert bar.startswith('epoch 1/2 |') and '| 1/3, ' in bar and error.startswith('error: The loss is ')
    monkeypatch.setattr(epoch_module, '_is_finite', interrupt)
    with Screen() as screen, pytest.raises(SystemExit):
        command(flags)
    assert screen.lines[-2].startswith('epoch 1/2 |') and screen.lines[-1] == 'interrupted'


def interrupt(*args):
    raise KeyboardInterrupt
