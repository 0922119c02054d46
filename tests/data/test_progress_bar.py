"""Bars on a terminal, and their absence from pipes."""

import pytest
from screen import Screen

from gkgnet_timm.__main__ import _format_in_a_line
from gkgnet_timm.data import demo_root
from gkgnet_timm.data.check import decode_all
from gkgnet_timm.data.progress_bar import ProgressBar, say
from gkgnet_timm.data.splits import open_split
from gkgnet_timm.runtime import FileWarning


@pytest.mark.parametrize('columns', [80, 120, 0])
def test_widest_bar(columns):
    """A bar fills the line but its last columns, for ^C; nothing is cut, and nothing stays."""
    with Screen(columns) as screen:
        with ProgressBar(123456789, 'evaluating epoch 1000') as bar:
            bar.start_t -= 3e6  # a month
            bar.update(12345)
            bar.refresh()
        print('done')
    assert screen.lines == ['done']
    widest = screen.drawn[-2]
    assert len(widest) == (columns or 80) - 3 and '| 12345/123456789, ' in widest and widest.endswith(' left'), widest
    assert ' img/s, ' in widest


def test_no_more_than_the_total():
    """Processes that share 5 images have some twice; of a stream of unknown length all are counted."""
    with Screen() as screen:
        for total in (5, 0):
            with ProgressBar(total, 'evaluating') as bar:
                bar.update(4)
                bar.update(4)
    known, unknown = [line for line in screen.drawn if '/5' in line], screen.drawn[-1]
    assert '| 5/5, ' in known[-1] and unknown.startswith('evaluating 8, ') and not screen.lines


def test_only_the_first_process_draws(monkeypatch):
    with Screen() as screen:
        monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
        for rank in (1, 0):
            monkeypatch.setattr('torch.distributed.get_rank', lambda rank=rank: rank)
            with ProgressBar(5, f'rank {rank}') as bar:
                bar.update(5)
    assert screen.drawn and all(line.startswith('rank 0') for line in screen.drawn)


def test_pipes_and_no_stderr_at_all(monkeypatch, capsys):
    for stream in (None, 'as it is'):
        with monkeypatch.context() as patch:
            if stream is None:
                patch.setattr('sys.stderr', None)
            say('a step')
            with ProgressBar(5, 'evaluating') as bar:
                bar.update(5)
    assert capsys.readouterr() == ('', '')


def test_drawing_the_demo_set_and_reading_images(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'first'))
    demo_root({'train': 2, 'val': 2})  # of a pipe
    with Screen() as screen:
        monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path))
        demo_root({'train': 3, 'val': 2})
        drawn = len(screen.drawn)
        decode_all(open_split('demo', split='train', verbose=False), 0)
    draws, reads = (
        [line for line in screen.drawn if line.startswith(what)] for what in ('drawing the demo set', 'reading images')
    )
    assert drawn and ' 5/5, ' in draws[-1] and ' 3/3, ' in reads[-1], screen.drawn
    assert max(map(len, screen.drawn)) == 77 and not screen.lines


def test_an_error_and_a_warning_have_lines_of_their_own(monkeypatch):
    with Screen() as screen:
        monkeypatch.setenv('COLUMNS', '80')
        with pytest.raises(KeyboardInterrupt), ProgressBar(5, 'reading images') as bar:
            bar.update(2)
            screen.stream.write(_format_in_a_line('text', FileWarning, 'a.py', 3))
            bar.update(1)
            screen.stream.write('^C')
            raise KeyboardInterrupt
        print('interrupted')
    assert screen.lines == ['Warning: text', 'interrupted']
