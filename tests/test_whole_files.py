"""Files that are written whole or not at all, locks, and drafts that a kill has left."""

import errno
import os
import sys
import time

import numpy as np
import pytest

from gkgnet_timm import runtime
from gkgnet_timm.evaluation import plots, scores_file, thresholds
from gkgnet_timm.evaluation.class_report import class_report, write_class_report
from gkgnet_timm.evaluation.results import write_results
from gkgnet_timm.runtime import clear_drafts, fits, locked, replacing

SCORES, TARGETS, NAMES = np.array([[0.2, 0.7], [0.6, 0.1]]), np.array([[0, 1], [1, 0]]), ['größe', '猫']
WRITERS = {
    'thresholds.json': lambda path: thresholds.save_thresholds(path, NAMES, np.array([0.5, 0.5]), 0.5),
    'scores.npz': lambda path: scores_file.save_scores(path, SCORES, TARGETS, ['a', 'b'], NAMES),
    'classes.csv': lambda path: write_class_report(path, class_report(SCORES, TARGETS, NAMES)),
    'results.json': lambda path: write_results(path, dict(mAP=1.0, model='größe'), None),
    'results.csv': lambda path: write_results(path, dict(mAP=1.0, model='größe'), None),
    'ap_by_class.png': lambda path: plots.draw_plots(path.parent, SCORES, TARGETS, NAMES),
}


@pytest.mark.parametrize('name', WRITERS)
def test_full_disk_keeps_the_previous_file(name, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    opened = open

    def open_full(file, mode='r', **kwargs):
        stream = opened(file, mode, **kwargs)

        def write(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if 'x' in mode:
            stream.write = write
        return stream

    others = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    monkeypatch.setattr(runtime, 'open', open_full, raising=False)
    with pytest.raises(OSError, match='Cannot write .*, the previous one stays: No space left on device'):
        WRITERS[name](path)
    assert path.read_bytes() == whole and {item.name: item.read_bytes() for item in tmp_path.iterdir()} == others


@pytest.mark.skipif(sys.platform == 'win32', reason='modes of files and /dev/null')
def test_link_mode_and_locale_of_a_file(tmp_path):
    (tmp_path / 'real').write_text('old')
    (tmp_path / 'real').chmod(0o640)
    (tmp_path / 'link').symlink_to('real')
    with replacing(tmp_path / 'link') as file:
        file.write('größe')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'real').read_bytes() == 'größe'.encode()
    assert (tmp_path / 'real').stat().st_mode & 0o777 == 0o640
    with replacing('/dev/null') as file:
        file.write('x')
    assert not os.path.isfile('/dev/null')


def test_old_drafts_are_cleared(tmp_path):
    for name, age in (('new', 0), ('old', 2 * 24 * 3600)):
        draft = tmp_path / f'{runtime.DRAFT}{name}'
        draft.mkdir()
        os.utime(draft, (time.time() - age,) * 2)
    with replacing(tmp_path / 'x') as file:
        file.write('x')
    assert sorted(os.listdir(tmp_path)) == sorted(['x', f'{runtime.DRAFT}new'])
    clear_drafts(tmp_path, age=0)
    assert os.listdir(tmp_path) == ['x']


def test_lock(tmp_path):
    with locked(tmp_path / 'run', 'train'):
        with pytest.raises(ValueError, match='Another train is at work in .*run'):
            with locked(tmp_path / 'run', 'train'):
                pass
    with locked(tmp_path / 'run', 'train'):
        pass
    assert not os.listdir(tmp_path)  # a folder in which nothing was written is not left
    with locked(tmp_path / 'a' / 'run', 'train'):
        (tmp_path / 'a' / 'run' / 'last').touch()
    assert os.listdir(tmp_path / 'a' / 'run') == ['last']


@pytest.mark.parametrize('value, hint, expected', [(1, float, True), (True, int, False), (float('nan'), float, False)])
def test_types(value, hint, expected):
    assert fits(value, hint) == expected
