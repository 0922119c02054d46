"""The configuration of a training run, from Python, from flags and from YAML."""

import math
from dataclasses import fields

import pytest
import yaml

from timm.loss import MULTI_LABEL_LOSS_TYPES

from gkgnet_timm.commands.flags.config import CONFIGS, packaged_configs
from gkgnet_timm.commands.flags.train import create_parser
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.training.config import LOSSES, RANGES, TrainConfig


def test_flags_and_fields_are_the_same():
    flags = vars(create_parser().parse_args([])).keys() - {'config', 'resume'}
    assert flags == {item.name for item in fields(TrainConfig)}
    assert RANGES.keys() <= flags


def test_defaults_of_flags_are_those_of_the_configuration():
    config, resume = parse_flags(['--dataset', 'coco', '--data-dir', 'x'])
    assert resume is None and config == TrainConfig('coco', data_dir='x')


def test_losses_are_ours_and_those_of_timm():
    assert LOSSES == ('gkgnet', *MULTI_LABEL_LOSS_TYPES)


def test_values_that_follow_from_others():
    config = TrainConfig('voc', batch_size=7)
    assert (config.unknown_labels, config.validation_batch_size) == ('positive', 7)
    config = TrainConfig('coco', validation_batch_size=3)
    assert (config.unknown_labels, config.validation_batch_size) == ('ignore', 3)


def test_paths_hold_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ('data_dir', 'class_map', 'class_stats', 'pretrained_path')
    config = TrainConfig('coco', **{name: f'some/{name}' for name in names}, output='out', train_images='images')
    assert [getattr(config, name) for name in names] == [str(tmp_path / 'some' / name) for name in names]
    assert (config.output, config.train_images) == ('out', 'images')


@pytest.mark.parametrize('name', RANGES)
def test_ranges(name):
    low, high = RANGES[name]
    for value in (low, min(high, 10**9)):
        assert getattr(TrainConfig('demo', **{name: value}), name) == value
    for value in (low - 1, math.nan, *([high + 1] if high < math.inf else [])):
        with pytest.raises(ValueError, match=f'--{name.replace("_", "-")} must be .*got {value}'):
            TrainConfig('demo', **{name: value})


@pytest.mark.parametrize('name', ['scale', 'ratio'])
def test_crops_run_from_small_to_large(name):
    for value in ([0.5, 0.1], [0, 1]):
        with pytest.raises(ValueError, match='--scale and --ratio'):
            TrainConfig('demo', **{name: value})


@pytest.mark.parametrize('name', packaged_configs())
def test_packaged_configs(name):
    values = yaml.safe_load((CONFIGS / f'{name}.yaml').read_text())
    config, _ = parse_flags(['-c', name, '--data-dir', 'x', *([] if 'dataset' in values else ['--dataset', 'csv'])])
    for key, value in values.items():
        assert getattr(config, key) == (float(value) if key in ('lr', 'warmup_lr', 'opt_eps') else value), key


def test_config_without_a_data_set(tmp_path):
    """It is that of the flags, or of the splits, in the flags or in the config."""
    assert parse_flags(['-c', 'finetune', '--data-dir', 'x', '--train-split', 'a.csv'])[0].dataset == 'csv'
    assert parse_flags(['-c', 'finetune', '--dataset', 'demo'])[0].model == 'gkgnet_efficientnet_lite0'
    (tmp_path / 'a.yaml').write_text('train_split: a.json\ndata_dir: x\n')
    assert parse_flags(['-c', str(tmp_path / 'a.yaml')])[0].dataset == 'coco'
    with pytest.raises(ValueError, match='of what form'):
        parse_flags(['-c', 'finetune', '--data-dir', 'x'])
    with pytest.raises(ValueError, match="Neither --dataset nor config 'finetune'"):
        parse_flags(['-c', 'finetune'])


def test_yaml_repeats_a_configuration(tmp_path):
    flags = ['--dataset', 'csv', '--data-dir', 'x', '--opt-betas', '0.8', '0.99', '--amp', '--no-sched-on-updates']
    flags += ['--model-kwargs', 'depths=(1, 1, 1, 1)', 'k=3', 'global_pool=avg', '--opt-kwargs', 'foreach=False']
    flags += ['--dist-bn', '', '--torchcompile', 'eager', '--loss-pos-weight', '1,2', '--seed', '7', '--lr', '1e-30']
    config, _ = parse_flags(flags)
    (tmp_path / 'a.yaml').write_text(yaml.safe_dump(config.to_dict()))
    again, _ = parse_flags(['-c', str(tmp_path / 'a.yaml')])
    config.model_kwargs['depths'] = [1, 1, 1, 1]  # YAML has no tuples
    assert again == config


@pytest.mark.parametrize(
    'text, expected',
    [
        ('lr: 1e-3', dict(lr=1e-3)),  # text for YAML
        ('lr: 1', dict(lr=1.0)),
        ('experiment: 5', dict(experiment='5')),
        ('drop: 0', dict(drop=0.0)),
        ('min-lr: -1', dict(min_lr=-1.0)),
        ('decay_milestones: [3]', dict(decay_milestones=[3])),
        ('opt_betas: [0.5, 0.6]', dict(opt_betas=[0.5, 0.6])),
        ('loss_class_weight: [1, 2.5]', dict(loss_class_weight='1,2.5')),
        ('model_kwargs: {k: 3, dims: [8, 16]}', dict(model_kwargs=dict(k=3, dims=[8, 16]))),
        ('torchcompile: true', dict(torchcompile='inductor')),
        ('torchcompile: false', dict(torchcompile=None)),
        ('sched_on_updates: false', dict(sched_on_updates=False)),
        ('pretrained: true', dict(pretrained=True)),
        ('amp: false', dict(amp=False)),
        ('aa: null', dict(aa=None)),
    ],
)
def test_yaml(text, expected, tmp_path):
    (tmp_path / 'a.yaml').write_text(f'dataset: demo\n{text}\n')
    assert parse_flags(['-c', str(tmp_path / 'a.yaml')])[0] == TrainConfig('demo', **expected)
    # the command line wins
    config, _ = parse_flags(['-c', str(tmp_path / 'a.yaml'), '--epochs', '3'])
    assert config == TrainConfig('demo', epochs=3, **expected)


@pytest.mark.parametrize(
    'text, message',
    [
        ('epoch: 3', "unknown flag 'epoch', 'epochs'?"),
        ('resume: x', "unknown flag 'resume'"),
        ('epochs: 6.5', "--epochs: invalid int value: '6.5'"),
        ('epochs: null', 'epochs is None, expected a value such as 30'),
        ('epochs: false', 'epochs is False, expected a value such as 30'),
        ('lr: [1, 2]', "--lr: invalid float value: '1,2'"),
        ('lr: true', '--lr: expected one argument'),
        ('scale: [1]', '--scale: expected 2 arguments'),
        ('sched: cosin', "--sched: invalid choice: 'cosin'"),
        ('pretrained: maybe', "--pretrained, --no-pretrained: expected one of these, got 'maybe'"),
        ('model_kwargs: 3', "--model-kwargs: expected KEY=VALUE, got '3'"),
        ('- a', 'holds list, expected flags and values'),
        ('a: [', 'is not YAML'),
    ],
)
def test_wrong_yaml_is_one_line(text, message, tmp_path):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(ValueError) as raised:
        parse_flags(['-c', str(tmp_path / 'a.yaml')])
    assert 'a.yaml' in str(raised.value) and message in str(raised.value) and '\n' not in str(raised.value)
