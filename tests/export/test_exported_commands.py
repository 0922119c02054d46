"""The command `export`, and the commands that run what it wrote."""

import contextlib
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_image
from fastapi.testclient import TestClient
from runs import check_one_line

import timm

from gkgnet_timm.__main__ import main
from gkgnet_timm.commands.export import main as export
from gkgnet_timm.commands.predict import main as predict
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import demo
from gkgnet_timm.export import check
from gkgnet_timm.inference.program import load_program
from gkgnet_timm.weights.publish import push

pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.usefixtures('small_demo', 'no_curves')]

MODEL = '--model test_resnet --img-size 64'.split()
TRAIN = ['train', '--dataset', 'demo', *MODEL, *'-b 8 --epochs 1 -j 0 --device cpu --model-ema'.split()]
FILES = ['model.onnx', 'model_fp16.onnx', 'model_int8.onnx', 'model.pt2']
EXACT = ['model.onnx', 'model.pt2']
BESIDE = ['README.md', 'categories.json', 'config.json', 'preprocess.json', 'selected_tags.csv', 'thresholds.csv']
CPU = ['-j', '0', '--device', 'cpu']


@pytest.fixture(scope='module')
def exported(tmp_path_factory, small_demo):
    """A checkpoint, the folder of its export, and what the command printed."""
    folder, printed = tmp_path_factory.mktemp('exported'), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('gkgnet_timm.training.run.draw_curves', lambda summary, path, *args: Path(path).touch())
        main([*TRAIN, '--output', str(folder), '--experiment', 'run'])
    checkpoint = folder / 'run' / 'last.pth.tar'
    flags = ['--half', '--int8', '--calibration-images', str(small_demo / 'val'), '--dataset', 'demo']
    with contextlib.redirect_stdout(printed):
        export(['--checkpoint', str(checkpoint), '--output', str(folder / 'out'), *flags, '-b', '4'])
    return checkpoint, folder / 'out', printed.getvalue()


@pytest.fixture(scope='module')
def any_size(tmp_path_factory):
    """A file that takes any size, of thresholds 0.5, and the weights it is of."""
    folder = tmp_path_factory.mktemp('any_size')
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3)
    torch.save(model.state_dict(), folder / 'weights.pth')
    (folder / 'names.txt').write_text('cat\ndog\ncow\n')
    weights = ['--checkpoint', str(folder / 'weights.pth'), '--model', 'test_resnet']
    weights += ['--class-map', str(folder / 'names.txt')]
    flags = ['--output', str(folder / 'out'), '--img-size', '64', '--dynamic-size', '--format', 'pt2']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, 'OTHER_SIZES', ((96, 64), (64, 128)))
        export([*weights, *flags, '--threshold', '0.5'])
    return folder / 'out' / 'model.pt2', weights


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(5):
        save_image(tmp_path / 'photos' / f'{i}.png', i, (40 + 9 * i, 50))
    return 'photos'


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def check_rows(path, expected):
    """The same labels, and about the same scores."""
    rows, expected = rows_of(path), rows_of(expected)
    assert [row['file'] for row in rows] == [row['file'] for row in expected] and rows
    for row, other in zip(rows, expected):
        assert [label['label'] for label in row['labels']] == [label['label'] for label in other['labels']]
        scores = [[label['score'] for label in each['labels']] for each in (row, other)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-4)


def test_report(exported, small_demo):
    """The mAP of each file is what `validate` finds."""
    checkpoint, folder, printed = exported
    found = dict(re.findall(r'(PyTorch|model\S*) (\d+\.\d{4})', printed.splitlines()[-1]))
    assert list(found) == ['PyTorch', *FILES] and printed.splitlines()[-1].startswith('mAP: ')
    assert all(f'| {name} |' in printed for name in FILES) and str(folder) in printed
    assert float(found['PyTorch']) == pytest.approx(
        validate(['--checkpoint', str(checkpoint), '-j', '0'])['mAP'], abs=1e-4
    )
    for name in FILES:
        result = validate(['--checkpoint', str(folder / name), '--dataset', 'demo', '-j', '0'])
        assert float(found[name]) == pytest.approx(result['mAP'], abs=1e-4)
    assert all(float(found[name]) == pytest.approx(float(found['PyTorch']), abs=0.05) for name in EXACT)
    rows = list(csv.DictReader((folder / 'selected_tags.csv').open()))
    assert [row['name'] for row in rows] == list(demo.SHAPES)
    assert {path.name for path in folder.iterdir() if path.name[0] != '.'} == {*FILES, *BESIDE}


@pytest.mark.parametrize('name', EXACT)
def test_metrics(exported, name, tmp_path):
    checkpoint, folder, _ = exported
    results, scores = [], []
    for source in (checkpoint, folder / name):
        flags = ['--checkpoint', str(source), '--dataset', 'demo', '--flip', '--scores-out', str(tmp_path / 's.npz')]
        results.append(validate([*flags, *CPU]))
        scores.append(np.load(tmp_path / 's.npz')['scores'])
    assert results[1]['images'] == 11 and results[1]['img_size'] == 64
    for metric in ('mAP', 'CF1', 'OF1', 'CF1_top3', 'bce'):
        assert results[1][metric] == pytest.approx(results[0][metric], abs=1e-3), metric
    assert scores[1] == pytest.approx(scores[0], abs=2e-4)


@pytest.mark.parametrize('name', EXACT)
def test_predictions_and_embeddings(exported, name, photos):
    checkpoint, folder, _ = exported
    for source, out in ((checkpoint, 'expected'), (folder / name, 'given')):
        flags = ['--checkpoint', str(source), '--topk', '3', '--threshold', '0.001', '-b', '2']
        predict([photos, *flags, '--output', f'{out}.jsonl', '--embeddings', f'{out}.npz', *CPU])
    check_rows('given.jsonl', 'expected.jsonl')
    given, expected = (np.load(f'{out}.npz') for out in ('given', 'expected'))
    assert given.files == expected.files
    for key in given.files:
        if given[key].dtype.kind == 'f':
            assert given[key].shape == expected[key].shape
            assert given[key] == pytest.approx(expected[key], abs=2e-4)


def test_resume(exported, photos):
    """What was begun goes on with the same file, and not with another."""
    _, folder, _ = exported
    flags = ['--threshold', '0.001', '--output', 'rows.jsonl', '-b', '2', *CPU]
    predict([photos, '--checkpoint', str(folder / 'model.onnx'), *flags])
    whole = Path('rows.jsonl').read_bytes()
    Path('rows.jsonl').write_bytes(b''.join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match='begun with other .*weights'):
        predict([photos, '--checkpoint', str(folder / 'model.pt2'), *flags, '--resume'])
    predict([photos, '--checkpoint', str(folder / 'model.onnx'), *flags, '--resume'])
    assert Path('rows.jsonl').read_bytes() == whole


@pytest.mark.parametrize('size', [[], ['--img-size', '96']])
def test_any_size(any_size, photos, size):
    """Its own size without a flag. Labels are from the threshold on that it was exported with."""
    path, weights = any_size
    predict(
        [photos, *weights, '--threshold', '0.5', '--output', 'expected.jsonl', *(size or ['--img-size', '64']), *CPU]
    )
    predict([photos, '--checkpoint', str(path), '--output', 'given.jsonl', *size, *CPU])
    check_rows('given.jsonl', 'expected.jsonl')
    labels = [label for row in rows_of('given.jsonl') for label in row['labels']]
    assert 0 < len(labels) < 15 and {label['label'] for label in labels} <= {'cat', 'dog', 'cow'}
    config = json.loads(path.with_name('config.json').read_text())
    assert config['exported']['dynamic_size'] is True and 'thresholds' not in config  # 0.5 goes without saying


@pytest.mark.parametrize('name', EXACT)
@pytest.mark.parametrize('command', ['predict', 'validate'])
def test_flags_that_a_file_decides(exported, name, command, photos, capsys):
    path = exported[1] / name
    source = [photos] if command == 'predict' else ['--dataset', 'demo']
    for flags, message in (
        (['--amp'], '--amp: .*is an exported model'),
        (['--channels-last'], '--channels-last: .*is an exported model'),
        (['--model', 'test_resnet'], '--model: .*is an exported model'),
        (['--model-kwargs', 'k=3'], '--model-kwargs: .*is an exported model'),
        (['--use-ema'], '--use-ema'),
        (['--img-size', '96'], 'takes images of 64 x 64 alone .*--dynamic-size'),
    ):
        argv = [command, *source, '--checkpoint', str(path), *flags, *CPU]
        check_one_line(argv, f'{message}', capsys)


def test_folder_in_place_of_its_file(exported, photos, capsys):
    _, folder, _ = exported
    hint = rf"has no weights, but an exported model: give '{re.escape(str(folder))}/model.onnx'"
    for argv in (['predict', photos], ['validate', '--dataset', 'demo'], ['export', '--output', 'new']):
        check_one_line([*argv, '--checkpoint', str(folder)], hint, capsys)
    shutil.copytree(folder, 'copy')
    for name in FILES[:3]:
        Path('copy', name).unlink()
    check_one_line(['predict', photos, '--checkpoint', 'copy'], "give 'copy/model.pt2'", capsys)


@pytest.mark.parametrize('name', EXACT)
def test_damaged_files(exported, name, photos, capsys):
    _, folder, _ = exported
    whole = (folder / name).read_bytes()
    argv = ['predict', photos, '--checkpoint', name, *CPU]
    check_one_line(argv, f"'{name}' does not exist", capsys)
    Path(name).write_bytes(whole)
    check_one_line(argv, f"'{name}' has no config.json beside it", capsys)
    config = json.loads((folder / 'config.json').read_text())
    Path('config.json').write_text(json.dumps({key: value for key, value in config.items() if key != 'exported'}))
    check_one_line(argv, "'config.json' is not of an export", capsys)
    Path('config.json').write_text(json.dumps(config))
    for content in (b'', b'no model', whole[: len(whole) // 2], whole[::-1]):
        Path(name).write_bytes(content)
        check_one_line(argv, f"'{name}' is not an exported model, or damaged", capsys)
    other = {'model.onnx': 'model.pt2', 'model.pt2': 'model.onnx'}[name]
    shutil.copy(folder / other, name)
    check_one_line(argv, f"'{name}' is not an exported model, or damaged", capsys)


def test_what_export_refuses(exported, photos, tmp_path, capsys):
    checkpoint, folder, _ = exported
    argv = ['export', '--checkpoint', str(checkpoint), '--output', 'new']
    check_one_line([*argv, '--format', 'tflite'], "Unknown format 'tflite'.*onnx, pt2", capsys)
    check_one_line([*argv, '--int8'], '--int8 needs --calibration-images', capsys)
    check_one_line([*argv, '--half', '--format', 'pt2'], '--half.*--format onnx', capsys)
    check_one_line([*argv, '--calibration-images', 'nowhere'], "Nothing found: 'nowhere'", capsys)
    check_one_line([*argv[:-1], photos], "'photos' has other files, such as '0.png'", capsys)
    check_one_line([*argv[:-1], 'photos/0.png'], "'photos/0.png' is a file, give a folder", capsys)
    check_one_line(argv[:1] + argv[3:], '--checkpoint|--model', capsys)
    for name in EXACT:
        argv = ['export', '--checkpoint', str(folder / name), '--output', 'new']
        check_one_line(argv, f'{name}.* is an exported model: give what it was exported from', capsys)
    main(['convert', str(checkpoint), '--output', 'converted'])
    before = {path.name: path.read_bytes() for path in Path('converted').iterdir()}
    argv = ['export', '--checkpoint', str(checkpoint), '--output', 'converted']
    check_one_line(argv, "'converted' has other files|'converted' has a config.json that is not of an export", capsys)
    assert {path.name: path.read_bytes() for path in Path('converted').iterdir()} == before
    assert not Path('new').exists()


def test_other_commands_say_what_such_a_file_is(exported, photos, capsys):
    """They need weights, and name the file in one line."""
    for name in EXACT:
        path = str(exported[1] / name)
        check_one_line(['convert', path, '--output', 'new'], re.escape(name), capsys)
        flags = [*MODEL, '--pretrained-path', path, '--output', 'runs']
        check_one_line(['train', '--dataset', 'demo', *flags, *CPU], re.escape(name), capsys)


def test_push_takes_the_folder_as_it_is(exported, tmp_path):
    _, out, _ = exported
    done = push(out, 'org/name', license='apache-2.0', dry_run=True)
    assert done.is_exported and sorted(done.sizes) == sorted([*FILES, *BESIDE]) and 'license: apache-2.0' in done.card
    with pytest.raises(ValueError, match='--results'):
        push(out, 'org/name', license='apache-2.0', results='results.json', dry_run=True)
    shutil.copytree(out, tmp_path / 'out')
    (tmp_path / 'out' / 'model.pt2').unlink()
    with pytest.raises(FileNotFoundError, match='model.pt2'):
        push(tmp_path / 'out', 'org/name', license='apache-2.0', dry_run=True)


def test_class_map_of_other_names_is_refused(exported, tmp_path):
    checkpoint, out, _ = exported
    (tmp_path / 'names.txt').write_text('\n'.join(f'name {i}' for i in range(8)))
    save_image(tmp_path / 'photo.png', seed=0)
    flags = ['--class-map', str(tmp_path / 'names.txt')]
    with pytest.raises(ValueError, match='names different from those'):
        export(['--checkpoint', str(checkpoint), '--output', str(tmp_path / 'out'), *flags])
    with pytest.raises(ValueError, match='names different from those'):
        predict(['--checkpoint', str(out / 'model.onnx'), *flags, str(tmp_path / 'photo.png'), *CPU])


def test_file_that_fails_for_a_size(any_size, photos, monkeypatch):
    """As a graph does for maps with fewer patches than it looks for: one sentence."""
    path, _ = any_size

    def fail(images):
        raise RuntimeError('k argument\nshould not be greater than the dimension')

    program = load_program(path)
    monkeypatch.setattr(program, '_run', fail)
    with pytest.raises(ValueError, match=r'model.pt2. fails for images of 64 x 96: k argument should not'):
        program(torch.zeros(1, 3, 64, 96))
    with pytest.raises(ValueError, match='multiples of 32 from 64 on'):
        program(torch.zeros(1, 3, 80, 80))


@pytest.mark.parametrize('name', EXACT)
def test_serve(exported, photos, name, tmp_path, monkeypatch):
    """The server gives the scores of predict, and has no label graph to show."""
    source, found = str(exported[1] / name), []
    monkeypatch.setattr('gkgnet_timm.serving.server.run', lambda app, address: found.append(app) or address.close())
    main(['serve', '--checkpoint', source, '--port', '0', '--device', 'cpu'])
    predict([photos, '--checkpoint', source, '--all-scores', '--output', 'rows.jsonl', *CPU])
    with TestClient(found[0]) as client:
        files = [('files', (path.name, path.read_bytes())) for path in sorted(Path(photos).iterdir())]
        rows = client.post('/predict', files=files).json()
        assert client.get('/model').json()['label_graph'] is False
    for row, expected in zip(rows, rows_of('rows.jsonl'), strict=True):
        scores = {label['label']: label['score'] for label in expected['labels']}
        assert Path(expected['file']).name == row['file'] and row['scores'] == pytest.approx(scores, abs=2e-4)
