"""How commands read images: options that travel with a checkpoint, channels of a model, and images that are bad."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import NARROW_MODEL, check_one_line

import timm

from gkgnet_timm import load_model, predict_images
from gkgnet_timm.__main__ import _format_in_a_line
from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.convert import main as convert
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import open_split
from gkgnet_timm.evaluation.evaluate import evaluate_dataset
from gkgnet_timm.runtime import FileWarning
from gkgnet_timm.training.epoch import TrainingError

pytestmark = pytest.mark.usefixtures('no_curves')

SPLITS = ['--dataset', 'csv', '--data-dir', '.', '--train-split', 'train.csv', '--val-split', 'val.csv']
MODEL = ['--model', 'gkgnet_ti_224', *NARROW_MODEL]
FLAGS = [*SPLITS, '--img-size', '32', '-b', '4', '--epochs', '1', '-j', '0', '--device', 'cpu', '--output', 'out']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, of pictures of 12 bits: 8 to train on, 4 to evaluate."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 4096, (32, 32)).astype(np.uint16)).save(f'{i}.png')
    for split, names in (('train', range(8)), ('val', range(8, 12))):
        rows = ''.join(f'{i}.png,{"cat" if i % 2 else "dog"}\n' for i in names)
        (tmp_path / f'{split}.csv').write_text(f'image,labels\n{rows}')
    return tmp_path


def predicted(capsys, *flags):
    capsys.readouterr()
    command(
        ['predict', *(f'{i}.png' for i in range(8, 12)), *flags, '-j', '0', '--device', 'cpu', '--threshold', '1e-9']
    )
    out, err = capsys.readouterr()
    rows = [json.loads(line)['labels'] for line in out.splitlines()]
    return np.array([[label['score'] for label in sorted(row, key=lambda label: label['label'])] for row in rows]), err


def test_bit_depth_and_background_travel_with_the_checkpoint(folder, capsys):
    """To validate, predict, Python and a converted folder; a difference is said, an older checkpoint read."""
    last = train([*FLAGS, *MODEL, '--bit-depth', '12', '--background', '#102030', '--experiment', 'run'])
    checkpoint = ['--checkpoint', 'out/run/last.pth.tar']
    capsys.readouterr()
    assert validate([*checkpoint, '-j', '0'])['bce'] == last['bce']
    printed = capsys.readouterr().out
    assert 'bit_depth 12, background #102030' in printed and 'Warning' not in printed
    with pytest.warns(UserWarning, match='nearly black'):
        assert validate([*checkpoint, '-j', '0', '--bit-depth', '16'])['bce'] != last['bce']
    assert 'Warning: bit_depth is 16, the model was trained with 12.' in capsys.readouterr().out

    model = load_model('out/run/last.pth.tar')
    dataset = open_split('csv', '.', 'val.csv', verbose=False)
    assert evaluate_dataset(model, dataset, workers=0, device='cpu', batch_size=4).metrics['bce'] == last['bce']
    files = [f'{i}.png' for i in range(8, 12)]
    scores = np.stack([scores for _, scores, _ in predict_images(model, files, device='cpu', workers=0)])
    from_command, said = predicted(capsys, *checkpoint)
    assert said == '' and np.abs(from_command - scores).max() < 1e-5
    explicit = predict_images(model, files, device='cpu', workers=0, bit_depth=10)
    with pytest.warns(UserWarning, match='white in part'):
        assert np.abs(np.stack([scores for _, scores, _ in explicit]) - scores).max() > 1e-4
    with pytest.warns(UserWarning, match='nearly black'):
        assert 'Warning: bit_depth is 16, the' in predicted(capsys, *checkpoint, '--bit-depth', '16')[1]

    convert(['out/run/last.pth.tar', '--output', 'folder'])
    converted, said = predicted(capsys, '--model', 'local-dir:folder', '--pretrained')
    assert said == '' and np.abs(converted - scores).max() < 1e-5

    content = torch.load('out/run/last.pth.tar', weights_only=True)
    for name in ('bit_depth', 'background', 'max_pixels'):
        del content['args'][name]
    torch.save(content, 'old.pth.tar')
    with pytest.warns(UserWarning, match='nearly black'):
        validate(['--checkpoint', 'old.pth.tar', '-j', '0'])
    content['args']['bit_depth'] = 12
    torch.save(content, 'old.pth.tar')
    assert load_model('old.pth.tar').pretrained_cfg['notes'] == ['bit_depth=12', 'background=white']


@pytest.mark.parametrize('model', ['gkgnet_ti_224', 'resnet10t', 'tresnet_m', 'vit_tiny_patch16_224'])
@pytest.mark.parametrize('channels', [2, 4])
def test_channels_that_images_do_not_have(folder, capsys, model, channels):
    """Said before the first step."""
    narrow = NARROW_MODEL[1:] if model.startswith('gkgnet') else []
    flags = [*FLAGS, '--model', model, '--model-kwargs', *narrow, f'in_chans={channels}', '--bit-depth', '12']
    message = f'takes images of {channels} channels, .* give --model-kwargs in_chans=3 or in_chans=1'
    check_one_line(['train', *flags], message, capsys)


@pytest.mark.parametrize('model', ['gkgnet_ti_224', 'resnet10t'])
def test_grey_images_for_a_model_of_one_channel(folder, model):
    narrow = NARROW_MODEL[1:] if model.startswith('gkgnet') else []
    flags = ['--model', model, '--model-kwargs', *narrow, 'in_chans=1', '--bit-depth', '12', '--experiment', 'run']
    augmentation = ['--cropmix', '0.5', '--reprob', '0.5', '--aa', 'trivial']
    last = train([*FLAGS, *flags, *augmentation])
    assert validate(['--checkpoint', 'out/run/last.pth.tar', '-j', '0'])['bce'] == last['bce']
    trained = load_model('out/run/last.pth.tar')
    (pixels,) = predict_images(trained, '8.png', device='cpu', workers=0)
    assert pixels[2] == '' and timm.data.resolve_input_data_config(trained)['input_size'] == (1, 32, 32)


def test_epoch_without_a_readable_image(folder, capsys):
    for i in range(12):
        (folder / f'{i}.png').write_bytes(b'no image')
    flags = [*FLAGS, *MODEL, '--on-bad-image', 'skip']
    with pytest.raises(
        TrainingError, match='None of the images of epoch 1 could be read: `python -m gkgnet_timm check'
    ):
        train([*flags, '--experiment', 'run'])
    assert not (folder / 'out' / 'run' / 'last.pth.tar').exists()
    for i in range(8):
        Image.new('RGB', (32, 32)).save(f'{i}.png')
    with pytest.raises(TrainingError, match='None of the evaluation images could be read'):
        train([*flags, '--experiment', 'other'])


def test_share_of_unreadable_images(folder, capsys):
    (folder / '3.png').write_bytes(b'no image')
    (folder / '9.png').unlink()
    train([*FLAGS, *MODEL, '--bit-depth', '12', '--on-bad-image', 'skip', '--experiment', 'run'])
    assert 'Warning: 2 images could not be read and were left out, 16.7 % of 12; ' in capsys.readouterr().out
    validate(['--checkpoint', 'out/run/last.pth.tar', '-j', '0', '--on-bad-image', 'skip'])
    assert 'Warning: 1 images could not be read and were left out, 25.0 % of 4.' in capsys.readouterr().out


def test_damaged_files_of_all_decoders(folder, capsys):
    """Whatever their decoders raise, every command goes on, or ends with a line."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    names = [f'{i}.{kind}' for i, kind in enumerate(('avif', 'dds', 'webp', 'jpg', 'tif', 'jp2', 'gif', 'bmp'))]
    for name in names:
        picture.save(name)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2 :: 3] = bytes(len(content[len(content) // 2 :: 3]))
        content[60:100:2] = b'\xff' * 20
        (folder / name).write_bytes(content[: -len(content) // 3])
    (folder / 'train.csv').write_text(
        'image,labels\n' + ''.join(f'{name},cat\n' for name in names) + '0.png,dog\n1.png,dog\n'
    )
    unreadable = 'images cannot be read, see above'
    check_one_line(
        ['check-data', *SPLITS[:4], '--split', 'train.csv', '-j', '0', '--bit-depth', '12'], unreadable, capsys
    )
    train([*FLAGS, *MODEL, '--bit-depth', '12', '--on-bad-image', 'skip', '--experiment', 'run'])
    validate(['--checkpoint', 'out/run/last.pth.tar', '--split', 'train.csv', '-j', '0', '--on-bad-image', 'skip'])
    assert 'Left out, as it cannot be read' in capsys.readouterr().out


def test_max_pixels_and_wrong_options(folder, capsys):
    data = ['check-data', *SPLITS[:4], '--split', 'val.csv', '-j', '0', '--bit-depth', '12']
    with pytest.raises(SystemExit):
        command([*data, '--max-pixels', '1000'])
    assert 'it has 1024 pixels, more than 1000: to read it, give --max-pixels' in capsys.readouterr().out
    command([*data, '--max-pixels', '1024'])
    check_one_line([*data, '--bit-depth', '4'], '--bit-depth must be from 8 to 32, got 4', capsys)
    check_one_line([*data, '--background', 'x'], "--background is 'x', expected a colour", capsys)
    check_one_line(['predict', '8.png', '--max-pixels', '0'], '--max-pixels must be at least 1, got 0', capsys)


def test_images_that_are_nearly_black_are_named(folder):
    with pytest.warns(FileWarning) as caught:
        command(['check-data', *SPLITS[:4], '--split', 'train.csv', '-j', '0'])
    assert [str(warning.message).partition(':')[0] for warning in caught] == [f"'{i}.png'" for i in range(8)]
    assert _format_in_a_line('text', FileWarning, 'a.py', 3) == 'Warning: text\n'
    assert 'UserWarning' in _format_in_a_line('text', UserWarning, 'a.py', 3)
