"""Command explain: its files, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import check_one_line

import timm

from gkgnet_timm.__main__ import main
from gkgnet_timm.explanation.explain import explain

MODEL = '--model gkgnet_ti_224 --img-size 64 --model-kwargs depths=(1,1,1,1) dims=(8,16,24,32)'.split()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model('gkgnet_ti_224', img_size=64, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=3)
    path = tmp_path_factory.mktemp('weights') / 'weights.pt'
    torch.save(model.state_dict(), path)
    names = path.with_name('names.txt')
    names.write_text('cat\ndog\nfox\n')
    return ['--checkpoint', str(path), '--class-map', str(names), *MODEL]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, size in (('a.png', (90, 60)), ('b.jpg', (40, 120))):
        Image.effect_noise(size, 90).convert('RGB').save(folder / name)
    return folder


def test_pictures_and_patches(weights, images, tmp_path, capsys):
    main(['explain', str(images), *weights, '--output', str(tmp_path / 'out'), '--labels', 'dog', 'cat'])
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.json', 'a.png', 'b.json', 'b.png']
    assert 'Wrote the pictures and patches of 2 images' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert len(rows) == sum(chosen['label'] == 'dog' for chosen in rows) * 2
    assert list(rows[0]) == ['label', 'stage', 'group', 'rank', 'row', 'column', 'box', 'similarity']
    assert Image.open(tmp_path / 'out' / 'a.png').width > 800


def test_the_same_as_in_python(weights, images, tmp_path):
    flags = ['--patch', '3,4', '--stages', '2', '4', '--format', 'svg', 'pdf', '--output', str(tmp_path)]
    main(['explain', str(images / 'a.png'), *weights, *flags])
    assert {path.suffix for path in tmp_path.iterdir()} == {'.svg', '.pdf', '.json', ''}
    model = timm.create_model('gkgnet_ti_224', img_size=64, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=3)
    model.load_state_dict(torch.load(weights[1]))
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    expected = explain(model, images / 'a.png', patch=(3, 4), stages=[2, 4]).to_json()
    assert json.loads((tmp_path / 'a.json').read_text()) == expected and {row['stage'] for row in expected} == {2, 4}


def test_an_image_that_cannot_be_read(weights, images, tmp_path, capsys):
    (images / 'c.png').write_bytes(b'no image')
    with pytest.raises(SystemExit) as stopped:
        main(['explain', str(images), *weights, '--output', str(tmp_path / 'out')])
    assert stopped.value.code == 1
    output = capsys.readouterr()
    assert 'c.png' in output.err and '1 of 3 images cannot be read' in output.err and 'of 2 images' in output.out


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--labels', 'dgo'], "No class is named 'dgo': 'dog'?"),
        (['--patch', '3'], 'expected ROW,COLUMN'),
        (['--patch', '99,0'], 'Patch 99,0: the first map has rows 0 to 15, columns 0 to 15'),
        (['--patch', '1,1', '--topk', '2'], '--topk and --patch: give one of them'),
        (['--patch', '1,1', '--causal'], '--causal is about scores of labels: give no --patch'),
        (['--patch', '1,1', '--evaluate'], '--evaluate is about scores of labels: give no --patch'),
        (['--causal', '--evaluate'], 'not allowed with argument'),
        (['--evaluate', '--threshold', '0.999'], 'No label reaches its threshold'),
        (['--stages', '7'], 'Stage 7: the model has stages 1 to 4'),
        (['--topk', '0'], 'topk must be at least 1'),
        (['--threshold', '7'], 'threshold must be a score between 0 and 1'),
    ],
)
def test_wrong_flags(weights, images, tmp_path, capsys, flags, message):
    argv = ['explain', str(images / 'a.png'), *weights, '--output', str(tmp_path / 'out'), *flags]
    check_one_line(argv, message.replace('?', r'\?'), capsys)
    assert not list((tmp_path / 'out').glob('*'))


def test_nothing_is_overwritten(weights, images, tmp_path, capsys):
    check_one_line(['explain', str(images), *weights, '--output', str(images)], "a.png' is read by this", capsys)
    flags = ['--output', str(images), '--format', 'svg']
    (images / 'a.json').write_text('annotations')
    check_one_line(['explain', str(images), *weights, *flags], "a.json' exists beside the images", capsys)
    (images / 'a.json').unlink()
    main(['explain', str(images), *weights, *flags])  # beside the images, where nothing is yet
    names = Path(weights[3])
    (images / f'{names.stem}.png').write_bytes((images / 'a.png').read_bytes())
    argv = ['explain', str(images / f'{names.stem}.png'), *weights, '--class-map', str(tmp_path / 'names.json')]
    (tmp_path / 'names.json').write_bytes(names.read_bytes())
    check_one_line([*argv, '--output', str(tmp_path)], "names.json' is read by this", capsys)
    (tmp_path / 'file').touch()
    check_one_line(['explain', str(images), *weights, '--output', str(tmp_path / 'file')], 'give a folder', capsys)
    (images / 'deep').mkdir()
    Image.new('RGB', (9, 9)).save(images / 'deep' / 'a.png')
    argv = ['explain', str(images), *weights, '--output', str(tmp_path / 'out')]
    check_one_line(argv, 'would both be explained in', capsys)


def test_models_without_a_label_graph(images, tmp_path, capsys):
    torch.save(timm.create_model('resnet10t').state_dict(), tmp_path / 'resnet.pt')
    flags = ['--model', 'resnet10t', '--checkpoint', str(tmp_path / 'resnet.pt'), '--output', str(tmp_path)]
    check_one_line(['explain', str(images), *flags], 'ResNet with 1000 classes has no label graph to explain', capsys)


@pytest.fixture
def even_weights(weights, tmp_path):
    """Weights whose scores are all near 0.5."""
    state = torch.load(weights[1])
    state.update({key: value / 1000 for key, value in state.items() if key.startswith('head_')})
    torch.save(state, tmp_path / 'even.pt')
    return ['--checkpoint', str(tmp_path / 'even.pt'), *weights[2:]]


def test_effects(even_weights, images, tmp_path, capsys):
    flags = ['--causal', '--stages', '1', '2', '--threshold', '0.1', '--output', str(tmp_path)]
    main(['explain', str(images), *even_weights, *flags])
    rows = list(csv.DictReader((tmp_path / 'causal.csv').open()))
    assert [(row['file'], row['draws']) for row in rows] == [(str(images / name), '20') for name in 3 * ['a.png']] + [
        (str(images / name), '20') for name in 3 * ['b.jpg']
    ]
    output = capsys.readouterr().out
    assert f'| {images / "b.jpg"} | {rows[3]["label"]} | {float(rows[3]["score"]):.2f} |' in output
    assert 'of 6 confident labels' in output and (tmp_path / 'a.png').exists()
    main(['explain', str(images), *even_weights, *flags[:-1], str(tmp_path / 'again'), '--threshold', '0.999'])
    assert 'No label reaches its threshold' in capsys.readouterr().out
    assert (tmp_path / 'again' / 'causal.csv').read_text().startswith('file,label,score,drop,')


def test_curves(even_weights, images, tmp_path, capsys):
    flags = ['--evaluate', '--threshold', '0.1', '--format', 'svg', 'png', '--output', str(tmp_path / 'out')]
    main(['explain', str(images), *even_weights, *flags])
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['curves.csv', 'curves.png', 'curves.svg']
    rows = list(csv.DictReader((tmp_path / 'out' / 'curves.csv').open()))
    assert len(rows) == 2 * 3 * 3 * 21 and {row['method'] for row in rows} == {'graph', 'grad_cam', 'random'}
    output = capsys.readouterr().out
    assert '| Grad-CAM | 0.' in output and 'On these 2 images with 6 confident labels' in output
    (images / 'a.png').rename(images / 'curves.png')
    check_one_line(
        ['explain', str(images), *even_weights, '--evaluate', '--output', str(images)],
        'is read by this command',
        capsys,
    )
