"""How many labels an image gets, thresholds that come with the weights, embeddings, and texts beside images."""

import json

import numpy as np
import pytest
from conftest import save_image
from runs import TINY, check_one_line

from gkgnet_timm import load_model, predict_images
from gkgnet_timm.commands.convert import main as convert
from gkgnet_timm.commands.predict import main as predict
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.inference.predictor import class_names_of, image_outputs

pytestmark = pytest.mark.usefixtures('no_curves')

ON_CPU = ['-j', '0', '--device', 'cpu']


@pytest.fixture(scope='module')
def run(tmp_path_factory, small_demo):
    folder = tmp_path_factory.mktemp('out')
    train([*TINY, '--epochs', '1', '--output', str(folder), '--experiment', 'run'])
    return folder / 'run'


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i in range(3):
        save_image(folder / f'{i}.png', i)
    (folder / 'bad.png').write_bytes(b'no image')
    return folder


@pytest.fixture
def rows(run, photos, capsys):
    def rows(*flags, checkpoint=run):
        """Labels and scores of the readable images, in the order of the files."""
        capsys.readouterr()
        with pytest.raises(SystemExit):  # one is bad
            predict([str(photos), '--checkpoint', str(checkpoint), *ON_CPU, *flags])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{')]
        return [[(x['label'], x['score']) for x in row['labels']] for row in lines if 'labels' in row]

    return rows


def test_number_of_labels(rows, run, photos):
    everything = rows('--all-scores')
    names = class_names_of(load_model(run))
    assert all(sorted(label for label, _ in row) == sorted(names) for row in everything)
    assert all(row == sorted(row, key=lambda pair: -pair[1]) for row in everything)
    assert rows('--topk', '3') == [row[:3] for row in everything]
    level = np.median([score for row in everything for _, score in row])
    above = [[pair for pair in row if pair[1] >= level] for row in everything]
    assert rows('--threshold', str(level)) == above
    assert rows('--threshold', str(level), '--topk', '1') == [row[:1] for row in above]
    assert rows() == [[pair for pair in row if pair[1] >= 0.5] for row in everything]
    scores = [scores for _, scores, error in predict_images(load_model(run), photos, workers=0) if not error]
    assert np.allclose([dict(row)[names[0]] for row in everything], [row[0] for row in scores], atol=1e-6)


def test_flags_that_contradict_each_other(run, photos, capsys):
    argv = ['predict', str(photos), '--checkpoint', str(run / 'last.pth.tar')]
    check_one_line([*argv, '--all-scores', '--topk', '2'], '--all-scores leaves nothing out', capsys)
    check_one_line([*argv, '--all-scores', '--threshold', '0.5'], '--all-scores leaves nothing out', capsys)
    resumed = ['--resume', '--output', 'a.csv', '--embeddings', 'a.npz']
    check_one_line([*argv, *resumed], '--embeddings are of all images', capsys)
    photo = photos / '0.png'
    content = photo.read_bytes()
    check_one_line([*argv, '--embeddings', str(photo)], '--embeddings .*0.png.: give a file that ends in .npz', capsys)
    assert photo.read_bytes() == content


def test_thresholds_come_with_the_weights(rows, run, tmp_path, photos, capsys):
    everything = rows('--all-scores')
    file, folder = tmp_path / 'thresholds.json', tmp_path / 'converted'
    validate(['--checkpoint', str(run / 'last.pth.tar'), '--calibrate', str(file), *ON_CPU])
    convert([str(run), '--output', str(folder), '--thresholds', str(file)])
    expected = json.loads(file.read_text())['classes']
    assert len(set(expected.values())) > 1
    model = load_model(folder)
    assert dict(zip(class_names_of(model), model.thresholds)) == expected
    assert load_model(run / 'last.pth.tar').__dict__.get('thresholds') is None
    chosen = [[pair for pair in row if pair[1] >= expected[pair[0]]] for row in everything]
    assert rows(checkpoint=folder) == chosen != rows(checkpoint=run)
    assert rows('--threshold', '0.5', checkpoint=folder) == rows(checkpoint=run)
    assert rows('--topk', '2', checkpoint=folder) == [row[:2] for row in everything]
    assert '## Thresholds' in (folder / 'README.md').read_text()
    with pytest.raises(SystemExit):
        predict([str(photos), '--checkpoint', str(folder), *ON_CPU])
    assert 'Thresholds: those of each label that came with the weights' in capsys.readouterr().err


@pytest.mark.parametrize('value', [{'cat': 0.5}, 0.5, None, 'x'])
def test_thresholds_of_other_classes(value, run, tmp_path):
    convert([str(run), '--output', str(tmp_path / 'converted')])
    path = tmp_path / 'converted' / 'config.json'
    config = dict(json.loads(path.read_text()), thresholds=value)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match='config.json.*has (other classes|thresholds)'):
        load_model(tmp_path / 'converted')


def test_convert_refuses_thresholds_of_other_classes(run, tmp_path, capsys):
    file = tmp_path / 'thresholds.json'
    file.write_text('{"classes": {"cat": 0.3}}')
    argv = ['convert', str(run / 'last.pth.tar'), '--output', str(tmp_path / 'converted'), '--thresholds']
    check_one_line([*argv, str(file)], 'has other classes: 1 where the model has 8', capsys)
    check_one_line([*argv, 'nope.json'], "--thresholds 'nope.json': give a file", capsys)


@pytest.mark.parametrize('flags', [[], ['-b', '2']])
def test_embeddings_are_the_features_before_the_classifier(flags, rows, run, tmp_path, photos):
    path = tmp_path / 'a.npz'
    assert rows('--embeddings', str(path), *flags) == rows(*flags)
    model = load_model(run)
    with np.load(path) as content:
        files, embeddings = content['files'].tolist(), content['embeddings']
    assert files == [str(photos / f'{i}.png') for i in range(3)]

    def features(images):
        return model.forward_head(model.forward_features(images), pre_logits=True)

    outputs = image_outputs(model, photos, forward=features, workers=0, device='cpu')
    expected = np.stack([row for _, row, error in outputs if not error])
    assert embeddings.shape == (3, model.num_features) and embeddings.dtype == np.float32
    assert np.allclose(embeddings, expected, atol=1e-5)


def test_texts_beside_images(rows, photos, run, capsys):
    labels = rows('--topk', '2', '--sidecar')
    for i, row in enumerate(labels):
        assert (photos / f'{i}.txt').read_text() == ', '.join(label for label, _ in row) + '\n'
    assert not (photos / 'bad.txt').exists()
    argv = ['predict', str(photos), '--checkpoint', str(run / 'last.pth.tar'), *ON_CPU, '--sidecar']
    check_one_line(argv, "0.txt' exists. Move it away", capsys)
    for text in photos.glob('*.txt'):
        text.unlink()
    save_image(photos / '0.jpg', 0)
    check_one_line(argv, "0.jpg' and '.*0.png' would both have '.*0.txt'", capsys)
    assert not list(photos.glob('*.txt'))
