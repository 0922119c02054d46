"""The page of the first day, from its first command to its last, with a tiny model."""

import contextlib
import io
import os
import re
import shlex

import pytest
from conftest import ROOT
from runs import NARROW_MODEL

from gkgnet_timm.__main__ import main
from gkgnet_timm.data.demo import SHAPES, demo_root

PAGE = (ROOT / 'docs' / 'first-day.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```', PAGE, re.S | re.M)
TINY = ['--img-size', '32', '--epochs', '3', '-j', '0', '--device', 'cpu', *NARROW_MODEL]


def pattern(line):
    """A line of the page, of which figures may be others, and the class that a row of figures is of."""
    line = re.sub(r'\\\.\\\.\\\.$', '.*', re.escape(' '.join(line.split())))
    line = re.sub(rf'^({"|".join(SHAPES)})\b', r'\\w+', line)
    return re.compile(re.sub(r'\d+(\\\.\d+)*(\\\.dev\d+)?', r'\\d+(\\.\\d+)*(\\.dev\\d+)?', line))


def type_command(command):
    """Returns the lines that are printed, paths from the current folder."""
    words = shlex.split(command)
    if words[0] == 'mkdir':
        os.mkdir(words[1])
        return []
    if words[0] == 'cd':
        os.chdir(words[1])
        return []
    if words[0] == 'pip':
        return []
    assert words.pop(0) == 'gkgnet-timm'
    words += TINY if words[0] == 'train' else ['-j', '0'] if words[0] in ('validate', 'predict', 'check-data') else []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        main(words)
    return [' '.join(line.split()) for line in printed.getvalue().replace(os.sep, '/').splitlines()]


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    demo_root({'train': 300, 'val': 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['/bin/gkgnet-timm'])
    return tmp_path


def test_the_first_day(in_folder):
    pytest.importorskip('iterstrat')
    commands = 0
    for language, block in BLOCKS:
        if language == 'python':
            exec(compile(block, 'first-day.md', 'exec'), {})
            continue
        for part in re.split(r'^\$ ', block, flags=re.M)[1:]:
            command, *lines = part.splitlines()
            remaining = iter(type_command(command))
            seen = []
            for line in lines:
                expected = pattern(line)
                if line != '...':
                    found = any(seen.append(other) or expected.fullmatch(other) for other in remaining)
                    assert found, (command, line, seen)
            commands += 1
    assert commands == len(re.findall(r'^\$ ', PAGE, re.M)) > 10
    images = in_folder / 'output' / 'train' / 'day'
    for name in ('train_batch.png', 'curves.png'):
        assert (images / name).read_bytes().startswith(b'\x89PNG')
    rows = (in_folder / 'elsewhere' / 'labels.csv').read_text().splitlines()
    assert len(rows) == 301 and rows[0] == 'file,labels,scores,error'
