"""Flags of all commands: texts, switches that can be undone, mistyped names."""

import importlib
import re

import pytest
import torch
from runs import TINY, check_one_line

from gkgnet_timm import load_model
from gkgnet_timm.__main__ import COMMANDS
from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.runtime import command_line
from gkgnet_timm.weights.preprocessing import resolve_preprocessing

pytestmark = pytest.mark.usefixtures('no_curves')


def parser_of(name):
    return importlib.import_module(f'gkgnet_timm.commands.flags.{name.replace("-", "_")}').create_parser()


@pytest.mark.parametrize('command', COMMANDS)
def test_every_flag_has_a_text(command):
    for action in parser_of(command)._actions:
        says = action.help or action.choices or action.metavar == 'KEY=VALUE' or action.dest in ('model_kwargs', 'mean')
        assert says or action.dest in ('batch_size', 'std'), action.option_strings
    assert parser_of(command).format_help()


@pytest.mark.parametrize('command', ['train', 'validate', 'predict', 'check-data', 'benchmark', 'split'])
def test_workers_are_asked_for_alike(command):
    assert parser_of(command)._option_string_actions['-j'].dest == 'workers'


def test_switches_of_a_config_can_be_undone(tmp_path):
    config = tmp_path / 'config.yaml'
    names = ('pretrained', 'no_aug', 'no_val', 'drop_unlabelled', 'channels_last', 'bce_sum', 'sched_on_updates')
    config.write_text('dataset: demo\nmodel: gkgnet_ti_224\n' + ''.join(f'{name}: true\n' for name in names))
    argv = ['-c', str(config)]
    assert all(getattr(parse_flags(argv)[0], name) for name in names)
    undo = ['--no-pretrained', '--aug', '--val', '--no-drop-unlabelled', '--no-channels-last', '--no-bce-sum']
    undone = parse_flags([*argv, *undo, '--no-sched-on-updates'])[0]
    assert not any(getattr(undone, name) for name in names)
    assert parse_flags([*argv, *undo, '--pretrained', '--no-aug'])[0].no_aug


@pytest.mark.parametrize(
    'flags, message',
    [
        ('train --epoks 3', "^error: unknown flag '--epoks', '--epochs'\\? See --help.$"),
        ('predict a.jpg --chekpoint=x', "unknown flag '--chekpoint', '--checkpoint'\\?"),
        ('validate --checkpoint x --thresold 0.3', "'--threshold'\\?"),
        ('check-data photos', "unknown: 'photos'. See --help"),
        ('train --zzz', "unknown: '--zzz'"),
    ],
)
def test_mistyped_flags(flags, message, capsys):
    check_one_line(flags.split(), message, capsys)


def test_preprocessing_of_a_training_holds_afterwards(small_demo, tmp_path):
    flags = ['--in-chans', '1', '--mean', '0.4', '--std', '0.3', '--crop-pct', '0.9', '--epochs', '1']
    train([*TINY, *flags, '--output', str(tmp_path), '--experiment', 'run'])
    config = resolve_preprocessing(load_model(tmp_path / 'run'))
    assert config['input_size'] == (1, 32, 32) and config['crop_pct'] == 0.9
    assert (tuple(config['mean']), tuple(config['std'])) == ((0.4,), (0.3,))


def test_initial_checkpoint(small_demo, tmp_path, capsys):
    flags = [*TINY, '--epochs', '1', '--output', str(tmp_path), '--lr', '0', '--warmup-epochs', '0']
    train([*flags, '--experiment', 'first'])
    train([*flags, '--experiment', 'second', '--initial-checkpoint', str(tmp_path / 'first'), '--seed', '1'])
    weights = [
        torch.load(tmp_path / name / 'last.pth.tar', weights_only=True)['state_dict'] for name in ('first', 'second')
    ]
    assert torch.equal(*(tensors['head_label.weight'] for tensors in weights))
    weights[0]['head_label.weight'], weights[0]['head_label.bias'] = torch.zeros(3, 32), torch.zeros(3)
    for name in [name for name in weights[0] if name.startswith(('label_embed', 'head_patch'))]:
        weights[0][name] = weights[0][name][:3]
    torch.save(weights[0], tmp_path / 'three.pth')
    argv = ['train', *flags, '--initial-checkpoint', str(tmp_path / 'three.pth')]
    check_one_line(argv, 'is of 3 classes, the data set has 8: give --pretrained-path', capsys)
    check_one_line([*argv, '--pretrained-path', 'x'], 'give one of them', capsys)


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--model gkgnet_577', "Unknown model 'gkgnet_577'"),
        ('--opt nope', '--opt'),
        ('--opt-kwargs nonsense=1', '--opt'),
        ('--loss-pos-weight neg_pos', '--loss-pos-weight is for the losses of timm.*--loss asl.*--oversample-thr'),
        ('--smoothing 0.1', '--smoothing is for the losses of timm'),
        ('--log-wandb', '--log-wandb needs the package: pip install wandb'),
        ('--pretrained-path nope.pth', "Checkpoint '.*nope.pth' does not exist"),
        ('--initial-checkpoint nope', "Checkpoint '.*nope' does not exist"),
    ],
)
def test_what_needs_no_data_is_checked_before_it(flags, message, tmp_path, monkeypatch, capsys):
    """The data set does not exist: nothing has looked for it, and no folder is left."""
    monkeypatch.chdir(tmp_path)
    argv = ['train', '--data-dir', 'nowhere', '--train-split', 'train.csv', '--model', 'gkgnet_ti_224']
    check_one_line([*argv, *flags.split(), '--output', 'out/all'], message, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_leaves_no_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ['train', '--data-dir', 'nowhere', '--train-split', 'train.csv', '--model', 'gkgnet_ti_224']
    check_one_line([*argv, '--output', 'out/all'], 'nowhere/train.csv', capsys)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'out').mkdir()
    check_one_line([*argv, '--output', 'out/all'], 'nowhere/train.csv', capsys)
    assert list(tmp_path.iterdir()) == [tmp_path / 'out']


@pytest.mark.parametrize(
    'program, train, predict',
    [
        ('train_multilabel.py', 'python train_multilabel.py', 'python -m gkgnet_timm predict'),
        ('/some where/validate.py', "python '/some where/train_multilabel.py'", 'python -m gkgnet_timm predict'),
        ('/usr/bin/gkgnet-timm', 'gkgnet-timm train', 'gkgnet-timm predict'),
        ('/lib/gkgnet_timm/__main__.py', 'python -m gkgnet_timm train', 'python -m gkgnet_timm predict'),
        ('', 'python -m gkgnet_timm train', 'python -m gkgnet_timm predict'),
    ],
)
def test_commands_are_named_as_they_were_typed(program, train, predict, monkeypatch):
    monkeypatch.setattr('sys.argv', [program])
    assert command_line('train') == train and command_line('predict') == predict
    assert command_line('predict', 'my photo.jpg') == f"{predict} 'my photo.jpg'"
    assert parser_of('predict').prog == predict


@pytest.mark.parametrize(
    'argv, message',
    [
        (['predict', 'a.jpg', '--amp=fast'], "error: --amp, --no-amp, --amp=auto: expected one of these, got 'fast'. "),
        (['validate', '--flip=yes'], "error: --flip: expected no value, got 'yes'. See --help."),
        (['train', '--dataset', 'voca'], "error: Unknown --dataset 'voca', expected demo, .*, wds/..., .* of timm"),
    ],
)
def test_wrong_values_are_told_what_is_right(argv, message, capsys):
    check_one_line(argv, message, capsys)


def test_version(capsys):
    command(['--version'])
    assert re.fullmatch(r'gkgnet-timm \S+, torch \S+, timm \S+\n', capsys.readouterr().out)


def test_true_and_false_of_key_values():
    config, _ = parse_flags(['--dataset', 'demo', '--model-kwargs', 'a=false', 'b=TRUE', 'c=3', 'd=falsey', 'e=True'])
    assert config.model_kwargs == dict(a=False, b=True, c=3, d='falsey', e=True)
