"""Files from elsewhere: read as what they are, or refused in one line, at once and in little memory."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.data import CocoReader
from gkgnet_timm.inference.device import Process
from gkgnet_timm.inference.kept_rows import keep_rows
from gkgnet_timm.runtime import check_ranges, quoted, read_bytes, read_json
from gkgnet_timm.training.build import create_task
from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.weights.load import create_model_by_labels
from gkgnet_timm.weights.thresholds import load_threshold

DEEP = b'[' * 100_000


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_json_of_any_encoding(encoding, tmp_path):
    (tmp_path / 'a.json').write_bytes('{"ä": [1, "1"]}'.encode(encoding))
    assert read_json(tmp_path / 'a.json') == {'ä': [1, '1']}


@pytest.mark.parametrize(
    'content, message',
    [
        (DEEP, 'it is nested too deep'),
        (b'{"a":' * 100_000, 'it is nested too deep'),
        (b'1' * 5000, 'is not a JSON file: '),
        (b'{"a": 1', 'is not a JSON file: '),
        (b'\xff\xfea', 'is not a JSON file: '),
        (b'', 'is not a JSON file: '),
        (b'[]' + b' ' * 1000, 'has 1,002 bytes, expected at most 1,000'),
    ],
)
def test_json_that_cannot_be_read(content, message, tmp_path):
    (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_json(tmp_path / 'a.json', limit=1000 if b' ' * 999 in content else 10**6)
    assert str(tmp_path / 'a.json') in str(raised.value) and '\n' not in str(raised.value)


def odd_files(folder):
    os.mkfifo(folder / 'pipe')
    with open(folder / 'huge', 'wb') as file:
        file.truncate(1 << 40)  # takes no room
    return ['/dev/zero', folder / 'pipe', folder / 'huge', folder]


def test_files_without_end(tmp_path):
    for path in odd_files(tmp_path):
        with pytest.raises(ValueError, match='is not a regular file|has 1,099,511,627,776 bytes, expected at most'):
            read_json(path)
        with pytest.raises(
            ValueError, match='is not a regular file|bytes, expected at most|not a COCO annotation file'
        ):
            CocoReader(path, tmp_path)
    with open(tmp_path / 'zeros.json', 'wb') as file:
        file.truncate(1 << 32)
    with pytest.raises(ValueError, match="zeros.json' begins with zeros"):
        CocoReader(tmp_path / 'zeros.json', tmp_path)
    with pytest.raises(FileNotFoundError, match='nope'):
        read_bytes(tmp_path / 'nope', 1)


def test_odd_configs(tmp_path):
    for path in odd_files(tmp_path):
        with pytest.raises((ValueError, OSError), match='neither a file|bytes, expected at most'):
            parse_flags(['-c', str(path)])


LAUGHS = 'a0: &a0 [x]\n' + ''.join(f'a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n' for i in range(40))
MERGED = 'a0: &a0 {x: 1}\n' + ''.join(f'a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n' for i in range(40))


@pytest.mark.parametrize(
    'text, message',
    [
        (LAUGHS, 'more than 50,000 values'),
        (MERGED, 'more than 50,000 values'),
        ('model_kwargs: &a {k: *a}', 'refers to itself'),
        ('[' * 100_000, 'is not YAML: it is nested too deep'),
        ('{a: ' * 50_000, 'is not YAML: it is nested too deep'),
        ('a: 2024-99-99', 'is not YAML: month must be in'),
        (f'epochs: {"1" * 400}', '--epochs must be from 1 to 4294967295, got 1111'),
        (f'batch_size: {"1" * 400}', '--batch-size must be from 1 to 4294967295, got 1111'),
        (f'img_size: {"1" * 400}', '--img-size must be from 1 to 4294967295, got 1111'),
    ],
)
def test_yaml_that_grows(text, message, tmp_path):
    (tmp_path / 'a.yaml').write_text(f'{text}\n' if text[0] in '[{' else f'dataset: demo\n{text}\n')
    with pytest.raises(ValueError, match=message) as raised:
        parse_flags(['-c', str(tmp_path / 'a.yaml')])
    assert len(str(raised.value)) < 500 and '\n' not in str(raised.value)


def test_yaml_with_references_and_of_other_encodings(tmp_path):
    text = 'dataset: demo\nopt_betas: &b [0.5, 0.6]\nscale: *b\nexperiment: Übung\n'
    for encoding in ('utf-8', 'utf-8-sig', 'utf-16'):
        (tmp_path / 'a.yaml').write_bytes(text.encode(encoding))
        config, _ = parse_flags(['-c', str(tmp_path / 'a.yaml')])
        assert (config.scale, config.opt_betas, config.experiment) == ([0.5, 0.6], [0.5, 0.6], 'Übung')


def test_home_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    names = (
        'data_dir',
        'class_map',
        'pretrained_path',
        'train_split',
        'val_split',
        'train_images',
        'val_images',
        'output',
    )
    lines = [f'{name}: ~/{name}' for name in names]
    (tmp_path / 'a.yaml').write_text('\n'.join(['dataset: csv', *lines]))
    config, _ = parse_flags(['-c', str(tmp_path / 'a.yaml'), '--class-stats=~/stats.json'])
    assert [getattr(config, name) for name in names] == [str(tmp_path / name) for name in names]
    assert config.class_stats == str(tmp_path / 'stats.json')


def write_stats(path, content):
    path.write_bytes(b'\xef\xbb\xbf' + (content if isinstance(content, bytes) else json.dumps(content).encode()))
    return TrainConfig(
        'demo', model='gkgnet_ti_224', img_size=32, model_kwargs=dict(depths=(1,) * 4, dims=(8,) * 4, k=3),
        loss='bce', loss_pos_weight='neg_pos', class_stats=str(path),
    )  # fmt: skip


@pytest.mark.parametrize(
    'content, message',
    [
        (DEEP, '--class-stats: .* nested too deep'),
        (dict(pos_counts=[1, 2]), "stats.json' needs 'pos_counts' and 'num_samples'"),
        (dict(pos_counts=[1, 3], num_samples=2), 'numbers of images from 0 to 2'),
        (dict(pos_counts=[1, 10**400], num_samples=2), '--class-stats: '),
        (dict(pos_counts='many', num_samples=2), '--class-stats: '),
        (dict(pos_counts=[1, 2, 3], num_samples=4), 'counts 3 classes, the data set has 2'),
    ],
)
def test_class_stats(content, message, tmp_path):
    class Split:
        class_names = ['a', 'b']
        reader = None

    config = write_stats(tmp_path / 'stats.json', content)
    with pytest.raises(ValueError, match=message):
        create_task(config, Split, Process(torch.device('cpu')))
    create_task(
        write_stats(tmp_path / 'stats.json', dict(pos_counts=[1, 2], num_samples=4)),
        Split,
        Process(torch.device('cpu')),
    )


def test_thresholds(tmp_path):
    path = tmp_path / 't.json'
    path.write_bytes(b'\xef\xbb\xbf{"classes": {"a": 0.5, "b": 0.25}}')
    assert load_threshold(path, ['b', 'a']).tolist() == [0.25, 0.5]
    for content in (DEEP, b'{"classes": {"a": %s}}' % (b'1' * 400)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="t.json' is not a calibration file"):
            load_threshold(path, ['a'])


def test_config_beside_weights(tmp_path):
    save_file({'head.weight': torch.zeros(1)}, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_bytes(DEEP)
    with pytest.raises(
        ValueError, match="config.json' beside the weights is not the config of a timm model .*too deep"
    ):
        create_model_by_labels('gkgnet_ti_224', ['a'], pretrained_path=str(tmp_path / 'model.safetensors'))


def test_output_of_predict(tmp_path):
    (tmp_path / 'out.jsonl').write_bytes(DEEP + b'\n')
    with pytest.raises(ValueError, match="row 1 of '.*out.jsonl' is not jsonl of predict"):
        keep_rows(str(tmp_path / 'out.jsonl'), 'jsonl', ['a.jpg'], 1)


def test_values_in_messages():
    assert (quoted(3), quoted('3'), quoted(None), quoted('ü\n')) == ('3', "'3'", 'None', r"'ü\n'")
    value = 'x' * 10**6
    for _ in range(10_000):
        value = [value] * 3
    assert len(quoted(value)) < 1000 and len(quoted('x' * 10**6)) < 310 and len(quoted(10**3000)) < 100


def test_ranges_of_floats_stay():
    class Values:
        lr, epochs = 1e30, 2**32 - 1

    check_ranges(Values, dict(lr=(0, float('inf')), epochs=(1, float('inf'))))
