"""The commands of the package and the scripts that call them, as a shell does."""

import re
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT
from runs import TINY, check_one_line

from gkgnet_timm.__main__ import COMMANDS
from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.train import main as train


def test_unknown_command(capsys):
    for name, message in (('valdate', "'validate'?"), ('xyz', 'expected one of train, validate, predict')):
        with pytest.raises(SystemExit) as stopped:
            command([name, '--checkpoint', 'x'])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count('\n') == 1
        assert f'unknown command {name!r}' in error and message in error


def test_errors_are_one_line(small_demo, tmp_path, capsys, coco_folder):
    train([*TINY, '--epochs', '1', '--output', str(tmp_path), '--experiment', 'run'])
    checkpoint = str(tmp_path / 'run' / 'last.pth.tar')
    coco = ['--dataset', 'coco', '--data-dir', str(coco_folder)]
    (coco_folder / 'val' / '007.png').unlink()
    skip = ['--split', 'val', '--on-bad-image', 'skip']
    cases = [
        (['validate'], '--checkpoint'),
        (['validate', '--checkpoint', 'nope.pth.tar'], 'nope.pth.tar'),
        (
            ['validate', '--checkpoint', checkpoint, *coco, *skip],
            "classes .* does not know: 'person', 'dog', 'bottle'. Only known there: 'circle'",
        ),
        (['check-data', *coco, '--split', 'val'], '1 images cannot be read'),
        (['check-data', *coco, '--split', 'nope'], 'instances_nope.json'),
    ]
    for argv, message in cases:
        check_one_line(argv, message, capsys)


def test_interrupt(monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr('gkgnet_timm.commands.check_data.main', interrupt)
    with pytest.raises(SystemExit) as stopped:
        command(['check-data'])
    assert stopped.value.code == 130 and capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize('argv, code', [([], 2), (['-h'], 0), (['--help'], 0)])
def test_list_of_commands(argv, code, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(argv)
    printed = capsys.readouterr().out
    assert stopped.value.code == code and printed.startswith('usage: python -m gkgnet_timm COMMAND')
    assert all(re.search(rf'^  {name} +\w', printed, re.M) for name in COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_flags_are_parsed_before_the_command_is_imported(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, f'gkgnet_timm.commands.{name.replace("-", "_")}', None)
    for flag, code, message in (('--no-such-flag', 2, 'no-such-flag|required'), ('--help', 0, 'usage: ')):
        with pytest.raises(SystemExit) as stopped:
            command([name, flag])
        captured = capsys.readouterr()
        assert (stopped.value.code or 0) == code and re.search(message, captured.err if code else captured.out)


@pytest.mark.parametrize('argv', [['predict', 'a', '--checkpoint', 'b'], ['validate', '--scores-in', 'a'], ['--help']])
def test_closed_stdout(argv):
    shell = 'exec "$@" >&-'
    result = subprocess.run(
        ['sh', '-c', shell, '-', sys.executable, '-m', 'gkgnet_timm', *argv], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'stdout is closed' in result.stderr


def test_training_script_is_a_door_to_the_package(monkeypatch, capsys):
    door = str(ROOT / 'train_multilabel.py')
    monkeypatch.setattr(sys, 'argv', [door, '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(door, run_name='__main__')
    assert not stopped.value.code and 'train_multilabel.py [-h]' in capsys.readouterr().out
    runpy.run_path(door)  # processes that load images import it: nothing happens


def test_validation_script_is_a_door_to_the_package(tmp_path):
    """In a process of its own, away from the checkout."""
    door = ROOT / 'validate.py'
    result = subprocess.run([sys.executable, str(door), '--help'], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and 'validate.py [-h]' in result.stdout
