"""Files that are damaged, of other types, or made to do harm: each is a line of error, or the result."""

import json
import os
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import changed, damage_bytes, damage_content, damage_file, paths_of, run
from PIL import Image
from runs import NARROW_MODEL

import timm

from gkgnet_timm.evaluation.scores_file import save_scores
from gkgnet_timm.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures('no_curves')

NAMES = ['cat', 'dog', 'eel']
KWARGS = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)


class Payload:
    """Writes a file when it is unpickled as code."""

    def __reduce__(self):
        return open, ('executed', 'w')


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """A folder of good files, each of a kind."""
    root = tmp_path_factory.mktemp('good')
    Image.new('RGB', (32, 32), 'red').save(root / 'photo.png')
    model = timm.create_model('gkgnet_ti_224', num_classes=3, img_size=32, **KWARGS)
    args = dict(
        TrainConfig('demo', model='gkgnet_ti_224', model_kwargs=KWARGS, img_size=32).to_dict(), class_names=NAMES
    )
    saver = dict(checkpoint_files=[('checkpoint-2.pth.tar', 1.5)], best_epoch=2, best_metric=1.5, pending=(3, 1.0))
    content = dict(arch='gkgnet_ti_224', epoch=3, version=2, args=args, metric=1.0, saver=saver)
    content.update(optimizer=dict(state={}, param_groups=[]), state_dict=model.state_dict())
    torch.save(content, root / 'last.pth.tar')
    run(['convert', root / 'last.pth.tar', '--output', root / 'folder'])
    rng = np.random.default_rng(0)
    scores, targets = rng.random((6, 3), dtype=np.float32), (np.arange(18).reshape(6, 3) % 2).astype(np.int8)
    save_scores(root / 'scores.npz', scores, targets, list('abcdef'), NAMES)
    (root / 'thresholds.json').write_text(json.dumps(dict(threshold=0.5, classes=dict(zip(NAMES, (0.2, 0.3, 0.4))))))
    return root


FLAGS = ['-j', '0', '--device', 'cpu']
COMMANDS = {
    'last.pth.tar': lambda path, good: ['predict', good / 'photo.png', '--checkpoint', path, *FLAGS],
    'config.json': lambda path, good: (
        ['predict', good / 'photo.png', '--model', f'local-dir:{path.parent}', '--pretrained', *FLAGS]
    ),
    'scores.npz': lambda path, good: ['validate', '--scores-in', path],
    'thresholds.json': lambda path, good: ['validate', '--scores-in', good / 'scores.npz', '--threshold', path],
}
COUNTS = {'last.pth.tar': 64, 'config.json': 56, 'scores.npz': 30, 'thresholds.json': 25}


@pytest.mark.parametrize('name', COMMANDS)
def test_damaged(name, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(name)
    path = tmp_path / name
    source = good / 'folder' / name if name == 'config.json' else good / name
    if name == 'config.json':
        os.link(good / 'folder' / 'model.safetensors', tmp_path / 'model.safetensors')
    path.write_bytes(source.read_bytes())
    assert run(COMMANDS[name](path, good)) == ([], 0)
    for number in range(COUNTS[name]):
        data = source.read_bytes()
        if name == 'last.pth.tar' and number % 4:
            content = torch.load(source, weights_only=True)
            strange = [Payload(), torch.nan, b'x'] if number % 8 == 1 else []
            content = damage_content(content, rng) if not strange else dict(content, args=rng.choice(strange))
            torch.save(content, path, _use_new_zipfile_serialization=number % 3 > 0)
        elif name.endswith('.json'):
            damage_file(path, data, rng)
        else:
            path.write_bytes(damage_bytes(data, rng))
        lines, status = run(COMMANDS[name](path, good))
        assert status in (0, 1, 2) and len(lines) <= 1 + (status == 1), (number, lines)
        if status == 2:
            assert lines[0].startswith('error: '), (number, lines)
            assert name in lines[0] or str(tmp_path) in lines[0], (number, lines)
    assert not Path('executed').exists()


RUN = '-c demo --img-size 32 -b 8 --epochs 1 -j 0 --device cpu'.split() + NARROW_MODEL


@pytest.fixture(scope='module')
def trained(small_demo, tmp_path_factory):
    """A finished run, and what its last checkpoint holds."""
    root = tmp_path_factory.mktemp('runs')
    assert run(['train', *RUN, '--output', root, '--experiment', 'run']) == ([], 0)
    return root / 'run', torch.load(root / 'run' / 'last.pth.tar', weights_only=True)


def resume(trained, content, *flags):
    folder, _ = trained
    torch.save(content, folder / 'last.pth.tar')
    return run(['train', '--resume', folder / 'last.pth.tar', '--epochs', '1', '--device', 'cpu', *flags])


@pytest.mark.parametrize('form', ['absolute', 'relative', 'link'])
def test_no_path_of_a_checkpoint_is_followed(form, trained, tmp_path):
    folder, content = trained
    foreign = tmp_path / 'thesis.tex'
    foreign.write_text('mine')
    name = {'absolute': str(foreign), 'relative': os.path.relpath(foreign, folder), 'link': 'notes.txt'}[form]
    (folder / 'notes.txt').write_text('mine, too')
    for entries in (
        dict(checkpoint_files=[(name, 0.1)] * 5, best_epoch=f'../../{name}', best_metric=-1.0),
        dict(pending=(name, 99.0)),
        dict(
            curr_recovery_file=name,
            prev_recovery_file=name,
            checkpoint_files=[(f'checkpoint-0.pth.tar/../{name}', 1.0)],
        ),
    ):
        lines, status = resume(
            trained, dict(content, saver=dict(content['saver'], **entries)), '--checkpoint-hist', '1'
        )
        assert status == 2 and len(lines) == 1 and 'last.pth.tar' in lines[0] and 'damaged' in lines[0], lines
        assert foreign.read_text() == 'mine' and (folder / 'notes.txt').read_text() == 'mine, too'
    assert resume(trained, content) == ([], 0)


@pytest.mark.parametrize('name', ['epoch', 'version', 'optimizer', 'args', 'saver', 'state_dict'])
def test_checkpoint_to_resume_without_an_entry_or_with_another_type(name, trained):
    folder, content = trained
    rng = random.Random(name)
    for value in ('remove', rng.choice([None, 'x', -1.5, [1], {'a': 1}, {7: 7}])):
        lines, status = resume(trained, changed(content, [name], value))
        assert status == 2 and len(lines) == 1 and 'last.pth.tar' in lines[0], (value, lines)
    inner = [path for path in paths_of(content) if path[0] == name != 'state_dict' and len(path) > 1]
    for path in rng.sample(inner, min(2, len(inner))):
        lines, status = resume(trained, changed(content, path, [[]]))
        assert status in (0, 2) and len(lines) == (status == 2), (path, lines)


def test_resume_with_other_optimizer_average_or_pixels(trained):
    _, content = trained
    for flags, message in (
        (['--opt', 'sgd'], 'was trained by --opt adamw, not sgd'),
        (['--model-ema'], 'was trained with --model-ema False, this run has True'),
        (['--bit-depth', '12'], 'was trained with --bit-depth None, this run has 12'),
        (['--background', 'black'], 'was trained with --background None, this run has black'),
    ):
        lines, status = resume(trained, content, *flags)
        assert status == 2 and len(lines) == 1 and message in lines[0]
    with_average = dict(content, args=dict(content['args'], model_ema=True), state_dict_ema=content['state_dict'])
    lines, status = resume(trained, with_average, '--model-ema-force-cpu')
    message = 'was trained with --model-ema-force-cpu False, this run has True'
    assert status == 2 and len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--model-kwargs features_only=True', "'features_only'.*feature maps"),
        ('--model-kwargs checkpoint_path=x.pth', "'checkpoint_path'.*--pretrained-path"),
        ('--model-kwargs device=meta', "'device'.*give --device"),
        ('--model-kwargs num_classes=3', "'num_classes'.*data set"),
        ('--model-kwargs depths=()', r'depths must be 4 positive integers, got \(\)'),
        ('--model-kwargs dims=(8,16,24)', 'dims must be 4 positive integers'),
        ('--model-kwargs label_depth=1000000000', 'label_depth must be at most'),
        ('--model-kwargs k=true', 'k must be a positive integer, got True'),
        ('--model-kwargs img_size=True', 'img_size must be a positive integer .*got True'),
        ('--model-kwargs dynamic_img_pad=no', "dynamic_img_pad must be True or False, got 'no'"),
        ('--model-kwargs drop_path_rate=2', 'drop_path_rate must be a number from 0 to below 1, got 2'),
        ('--model-kwargs drop_rate=True', 'drop_rate must be a number from 0 to below 1, got True'),
        ('--model pvig_ti_224 --model-kwargs hidden_size=true', 'hidden_size must be a positive integer, got True'),
        ('--model-kwargs depths=(90,90,90,90) dims=(8000,8000,8000,8000)', 'over a billion'),
        ('--model-kwargs img_size=100000', 'img_size must be at most'),
        ('--model resnet18 --model-kwargs num_features=1 global_pool=', 'resnet18|one that'),
        ('--lr 1e400', '--lr must be a finite number, got inf'),
        ('--lr -1', '--lr must be at least 0'),
        ('--loss twoway --twoway-tp 0', '--twoway-tp must be at least'),
        ('--loss twoway --twoway-tn 0', '--twoway-tn must be at least'),
        ('--loss db --db-neg-scale 0', '--db-neg-scale must be at least'),
        ('--loss-weight-beta 1', '--loss-weight-beta must be from'),
        ('--loss-weight-max 0', '--loss-weight-max must be at least'),
    ],
)
def test_flags_refused_before_data_is_read(flags, message, tmp_path):
    argv = ['train', '--model', 'gkgnet_ti_224', '--dataset', 'csv', '--data-dir', '/nowhere', '--output', tmp_path]
    lines, status = run([*argv, *flags.split(), '--device', 'cpu'])
    assert status == 2 and len(lines) == 1 and re.search(message, lines[0]), lines


def test_weights_of_other_widths(good, tmp_path):
    argv = ['train', '--model', 'gkgnet_ti_224', '--dataset', 'csv', '--data-dir', '/nowhere', '--output', tmp_path]
    sizes = ['--model-kwargs', 'depths=(1,1,1,1)', 'dims=(8,16,24,40)', 'k=3', 'label_k=3', '--img-size', '32']
    lines, status = run([*argv, '--pretrained-path', good / 'last.pth.tar', *sizes, '--device', 'cpu'])
    assert status == 2 and len(lines) == 1 and 'last.pth.tar' in lines[0] and 'has shape' in lines[0], lines


@pytest.mark.parametrize(
    'place, value, message',
    [
        (('pretrained_cfg', 'nonsense'), 1, "unknown entry 'nonsense'"),
        (('pretrained_cfg', 'mean'), [0.5, 'a', 0.5], "'mean' must be"),
        (('pretrained_cfg', 'std'), [0, 0, 0], "'std' must be"),
        (('pretrained_cfg', 'mean'), [], "'mean' must have 3 numbers"),
        (('pretrained_cfg', 'interpolation'), 'cubic', "'interpolation' must be one of"),
        (('pretrained_cfg', 'crop_pct'), 'x', "'crop_pct' must be a finite number|'crop_pct' must be float"),
        (('pretrained_cfg', 'input_size'), [3, 10**6, 10**6], "'input_size' must be 3 numbers from"),
        (('architecture',), 7, 'timm has no architecture 7'),
        (('model_args', 'label_depth'), 10**9, "'label_depth' in 'model_args'"),
        (('num_classes',), '3', "'num_classes' must be"),
    ],
)
def test_config_of_a_folder(place, value, message, good, tmp_path):
    config = json.loads((good / 'folder' / 'config.json').read_text())
    os.link(good / 'folder' / 'model.safetensors', tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(changed(config, place, value)))
    lines, status = run(COMMANDS['config.json'](tmp_path / 'config.json', good))
    assert status == 2 and len(lines) == 1 and 'config.json' in lines[0] and re.search(message, lines[0]), lines


def test_scores_that_grow(tmp_path):
    with zipfile.ZipFile(tmp_path / 'scores.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('scores.npy', 'w', force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, dict(descr='<f4', fortran_order=False, shape=(10**5, 10**3)))
            for _ in range(400):
                file.write(bytes(10**6))
    lines, status = run(['validate', '--scores-in', tmp_path / 'scores.npz'])
    assert status == 2 and len(lines) == 1 and 'scores.npz' in lines[0] and '0.4 GB when unpacked' in lines[0], lines
