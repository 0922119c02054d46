"""Labels of your images: what is found, written, resumed, and equal to an evaluation."""

import csv
import gc
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_image
from forked import fork
from PIL import Image

import timm

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.class_names import COCO_CLASSES
from gkgnet_timm.commands.predict import main as predict
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.data import BadImageError, create_dataset, create_eval_loader
from gkgnet_timm.data.images import find_images
from gkgnet_timm.evaluation.thresholds import save_thresholds
from gkgnet_timm.inference import prediction_rows, predictor, share
from gkgnet_timm.inference.device import autocast_context
from gkgnet_timm.inference.kept_rows import keep_rows
from gkgnet_timm.inference.predictor import class_names_of, predict_images
from gkgnet_timm.runtime import locked
from gkgnet_timm.weights import load as factory
from gkgnet_timm.weights.load import load_model

pytestmark = pytest.mark.usefixtures('no_curves')

NARROW = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)
FLAGS = ['--img-size', '32', '--model-kwargs', *(f'{key}={value}' for key, value in NARROW.items())]


def flatten_scores(state_dict):
    """Keep scores from 0 and 1, where they would all be the same."""
    for key in ('head_label.weight', 'head_patch.weight'):
        state_dict[key].mul_(0.02)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, small_demo):
    """Checkpoint of a training, of 8 shapes, and the folder of its evaluation images."""
    folder = tmp_path_factory.mktemp('trained')
    flags = ['-c', 'demo', *FLAGS, '-b', '8', '--epochs', '1', '-j', '0', '--device', 'cpu', '--lr', '0.02']
    train([*flags, '--model-ema', '--model-ema-decay', '0.9', '--output', str(folder), '--experiment', 'run'])
    path = folder / 'run' / 'last.pth.tar'
    checkpoint = torch.load(path, weights_only=False)
    for key in ('state_dict', 'state_dict_ema'):
        flatten_scores(checkpoint[key])
    torch.save(checkpoint, path)
    return str(path), small_demo / 'val'


@pytest.fixture
def one_thread():
    """For processes that are forked: they have no other threads, which may also decide the last bit of a score."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Folder a, of images 0 to 6, as the current one has it."""
    monkeypatch.chdir(tmp_path)
    for i in range(7):
        save_image(tmp_path / 'a' / f'{i}.png', i, (40 + i, 30 + 2 * i))
    return tmp_path


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def run(*flags, checkpoint):
    predict([*map(str, flags), '--checkpoint', checkpoint, '-j', '0', '-b', '2', '--device', 'cpu'])


def test_a_checkpoint_is_read_once_and_let_go_before_images_are(photos, trained, monkeypatch):
    """Windows lets nobody replace it while its tensors are mapped."""
    load, read, left = torch.load, [], []

    def load_and_watch(*args, **kwargs):
        content = load(*args, **kwargs)
        read.append(weakref.WeakSet(content['state_dict'].values()))
        return content

    def predict_nothing(*args, **kwargs):
        gc.collect()
        left.extend(len(tensors) for tensors in read)
        return iter(())

    monkeypatch.setattr(torch, 'load', load_and_watch)
    monkeypatch.setattr(share, 'image_outputs', predict_nothing)
    run('a/0.png', checkpoint=trained[0])
    assert left == [0]


def test_paths_globs_folders_and_lists(photos):
    for name in ('b/c/x.JPG', 'b/y.webp', 'b/.hidden.png', 'b/.trash/z.png', 'b/notes.txt', 'b/[1].png', 'b/raw.dat'):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b'')
    assert find_images(['b']) == ['b/[1].png', 'b/c/x.JPG', 'b/y.webp']
    assert find_images(['b/**/*']) == find_images(['b'])
    assert find_images(['b/*']) == ['b/[1].png', 'b/y.webp']
    assert find_images(['b/raw.dat', 'b/[1].png']) == ['b/raw.dat', 'b/[1].png']
    assert find_images(['a/2.png', 'a', './a/1.png', str(photos / 'a' / '2.png')])[:2] == ['a/2.png', 'a/0.png']
    assert len(find_images(['a/2.png', 'a', './a/1.png'])) == 7
    (photos / 'list.txt').write_bytes('\ufeffa/1.png\r\n\r\nmissing, ü.png\na/0.png \n'.encode() + b'\xff.png')
    assert find_images(['list.txt']) == ['a/1.png', 'missing, ü.png', 'a/0.png ', os.fsdecode(b'\xff.png')]
    listed = [dict(id=1, file_name='a/1.png'), dict(id=2, coco_url='http://x.org/y/missing.jpg')]
    for more in (dict(), dict(annotations=[dict(image_id=1, category_id=1)], categories=[dict(id=1, name='cat')])):
        (photos / 'info.json').write_text(json.dumps(dict(images=listed, **more)))
        assert find_images(['info.json', 'a/1.png']) == ['a/1.png', 'missing.jpg']
    for content in ('[]', '{}', '{"images": [{}]}', '{'):
        (photos / 'info.json').write_text(content)
        with pytest.raises(ValueError, match="^(COCO file )?'info.json'(:| is not a COCO annotation file:) "):
            find_images(['info.json'])
    (photos / 'none.txt').write_text('\n')
    (photos / 'd').mkdir()
    cases = [('nope.png', 'is not an image'), ('nope*', 'is not an image'), ('none.txt', 'has no lines')]
    cases += [('d', 'has no images'), ('b/notes.txt', 'has no lines')]
    for argument, message in cases:
        with pytest.raises(FileNotFoundError, match=f'Nothing found: .*{re.escape(argument)}.* {message}'):
            find_images(['a', argument])


@pytest.mark.parametrize(
    'flags', [['--no-use-ema'], ['--use-ema'], [], ['--amp', '--channels-last'], ['-j', '2', '-b', '5']]
)
def test_scores_are_those_of_the_evaluation(flags, trained, photos):
    checkpoint, folder = trained
    run(folder, '--output', 'o.jsonl', '--threshold', '1e-9', *flags, checkpoint=checkpoint)
    rows = {Path(row['file']).name: row['labels'] for row in rows_of('o.jsonl')}
    dataset = create_dataset('demo', None, 'val')
    model = timm.create_model('gkgnet_ti_224', num_classes=8, img_size=32, **NARROW).eval()
    better = torch.load(checkpoint, weights_only=False)['best_weights'] == 'average'
    average = '--use-ema' in flags or ('--no-use-ema' not in flags and better)
    timm.models.load_checkpoint(model, checkpoint, use_ema=average)
    config = timm.data.resolve_input_data_config(model, args=dict(img_size=32))
    batch = 5 if '-b' in flags else 2
    loader = create_eval_loader(dataset, config, batch, torch.device('cpu'), 0)
    with torch.inference_mode(), autocast_context(torch.device('cpu'), '--amp' in flags, 'bfloat16')():
        scores = torch.cat([model(images).float().sigmoid() for images, _ in loader]).double().numpy()
    assert len(rows) == len(dataset) == 11 and (scores.max(0) > scores.min(0)).all()
    for i in range(len(dataset)):
        labels = rows[dataset.filename(i, basename=True)]
        by_name = {label['label']: label['score'] for label in labels}
        assert [by_name[name] for name in dataset.class_names] == [round(score, 6) for score in scores[i].tolist()]
        assert [label['score'] for label in labels] == sorted(by_name.values(), reverse=True)


def test_timm_alone_gives_the_same_scores(photos):
    """For published weights, by the transform that timm makes for the model."""
    model = timm.create_model('gkgnet_576', img_size=32, **NARROW)
    flatten_scores(model.state_dict())
    torch.save(model.state_dict(), 'GKGNet-576.pth')
    weights = dict(pretrained=True, pretrained_cfg_overlay=dict(file='GKGNet-576.pth'))
    model = timm.create_model('gkgnet_576', img_size=32, **NARROW, **weights).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model) | {'input_size': (3, 32, 32)})
    expected = model(transform(Image.open('a/3.png'))[None]).sigmoid()[0].tolist()
    flags = [*FLAGS, '--model', 'gkgnet_576', '--output', 'o.json', '--threshold', '1e-9']
    run('a/3.png', *flags, checkpoint='GKGNet-576.pth')
    (row,) = json.loads(Path('o.json').read_text())
    scores = {label['label']: label['score'] for label in row['labels']}
    assert scores == pytest.approx(dict(zip(COCO_CLASSES, expected)), abs=1e-5)


def test_python_use(trained, photos):
    """A file, a folder or several of them give the scores of the command, and reasons for unreadable images."""
    Path('a/2.png').write_bytes(b'no image')
    with pytest.raises(SystemExit):
        run('a', '--output', 'o.jsonl', '--threshold', '1e-9', checkpoint=trained[0])
    model = load_model(trained[0], name='gkgnet_ti_224', img_size=32, **NARROW)
    names = class_names_of(model)
    assert sorted(names) == sorted(label['label'] for label in rows_of('o.jsonl')[0]['labels'])
    for images in ('a', Path('a'), ['a/0.png', Path('a')]):
        found = list(predict_images(model, images, batch_size=2, workers=1, device='cpu'))
        assert len(found) == 7
        for row, (file, scores, error) in zip(rows_of('o.jsonl'), found):
            assert row['file'] == file and row.get('error', '') == error
            expected = {label['label']: label['score'] for label in row.get('labels', ())}
            assert error or {name: round(float(score), 6) for name, score in zip(names, scores)} == expected
        assert [bool(error) for _, _, error in found] == [i == 2 for i in range(7)]
    for images, device, message in (('nowhere', 'cpu', "'nowhere'"), ('a', 'nope', "--device 'nope'")):
        with pytest.raises((FileNotFoundError, ValueError), match=message):  # at once, not with the first image
            predict_images(model, images, device=device)


def test_classes_of_weights(photos, trained, capsys):
    checkpoint, _ = trained
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    torch.save(weights, 'plain.pth')
    torch.save({key: value for key, value in weights.items() if not key.startswith(('label_', 'head_'))}, 'trunk.pth')
    Path('names.txt').write_text('\n'.join('abcdefgh'))
    flags = ['a/0.png', *FLAGS, '--model', 'gkgnet_ti_224', '--threshold', '1e-9', '--format', 'jsonl']
    run(*flags, '--class-map', 'names.txt', checkpoint='plain.pth')
    (labels,) = [json.loads(line)['labels'] for line in capsys.readouterr().out.splitlines()]
    run('a/0.png', '--threshold', '1e-9', '--format', 'jsonl', checkpoint=checkpoint)
    (expected,) = [json.loads(line)['labels'] for line in capsys.readouterr().out.splitlines()]
    assert [label['score'] for label in labels] == [label['score'] for label in expected]
    assert {label['label'] for label in labels} == set('abcdefgh')
    model = timm.create_model('gkgnet_ti_224', img_size=32, **NARROW)
    flatten_scores(model.state_dict())
    torch.save(model.state_dict(), '80.pth')
    run(*flags, checkpoint='80.pth')
    assert 'class 79' in capsys.readouterr().out
    found = {'plain.pth': 'have 8 classes, not 80', 'trunk.pth': 'are of a trunk, without a classifier'}
    for file, known in found.items():  # a classifier that starts anew has nothing to say
        with pytest.raises(ValueError, match=f"{file}' {known}:.*--class-map"):
            run(*flags, checkpoint=file)


def test_plain_weights_of_any_timm_model(photos, capsys):
    model = timm.create_model('test_resnet', num_classes=8).eval()
    torch.save(model.state_dict(), 'plain.pth')
    Path('names.txt').write_text('\n'.join('abcdefgh'))
    flags = ['a/0.png', '--model', 'test_resnet', '--img-size', '32', '--threshold', '1e-9', '--format', 'jsonl']
    run(*flags, '--class-map', 'names.txt', checkpoint='plain.pth')
    (labels,) = [json.loads(line)['labels'] for line in capsys.readouterr().out.splitlines()]
    config = timm.data.resolve_input_data_config(model, args=dict(img_size=32))
    image = timm.data.create_transform(**config)(Image.open('a/0.png').convert('RGB'))
    expected = dict(zip('abcdefgh', model(image[None]).sigmoid()[0].tolist()))
    assert {label['label']: label['score'] for label in labels} == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="'test_resnet' from 'plain.pth': .*size mismatch"):
        run(*flags, checkpoint='plain.pth')


def test_other_image_size(trained, photos, capsys):
    run('a', '--img-size', '64', checkpoint=trained[0])
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_threshold_and_topk(trained, photos):
    checkpoint, _ = trained
    run('a', '--output', 'all.jsonl', '--threshold', '1e-9', checkpoint=checkpoint)
    everything = [row['labels'] for row in rows_of('all.jsonl')]
    names = sorted({label['label'] for label in everything[0]})
    assert all(len(labels) == 8 for labels in everything)

    run('a', '--output', 'o.jsonl', checkpoint=checkpoint)
    assert [row['labels'] for row in rows_of('o.jsonl')] == [
        [label for label in labels if label['score'] >= 0.5] for labels in everything
    ]
    run('a', '--output', 'o.jsonl', '--topk', '3', '--threshold', '1e-9', checkpoint=checkpoint)
    assert [row['labels'] for row in rows_of('o.jsonl')] == [labels[:3] for labels in everything]

    scores = [{label['label']: label['score'] for label in labels} for labels in everything]
    middle = {name: np.median([of_image[name] for of_image in scores]) for name in names}
    middle[names[0]] = 0.99999  # all but never
    save_thresholds('t.json', names, np.array(list(middle.values())) - 2e-6, 0.5)
    run('a', '--output', 'o.jsonl', '--threshold', 't.json', checkpoint=checkpoint)
    chosen = [row['labels'] for row in rows_of('o.jsonl')]
    assert chosen == [[label for label in labels if label['score'] >= middle[label['label']]] for labels in everything]
    assert 0 < sum(map(len, chosen)) < 7 * 8

    run('a', '--output', 'o.csv', '--threshold', '0.999999', checkpoint=checkpoint)
    assert Path('o.csv').read_text() == 'file,labels,scores,error\n' + ''.join(f'a/{i}.png,,,\n' for i in range(7))


@pytest.mark.parametrize('form', ['csv', 'json', 'jsonl', 'table'])
def test_any_image_and_any_name_in_any_format(form, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ['comma, "quote".png', 'line\nbreak.png', 'carriage\rreturn.png', 'größe 猫.png', os.fsdecode(b'\xff.png')]
    modes = ['L', 'RGBA', 'P', 'LA', '1']
    Path('a').mkdir()
    for name, mode in zip(names, modes):
        Image.new('RGB', (1, 1 + 99 * (mode == 'L'))).convert(mode).save(Path('a', name))
    Image.new('CMYK', (65, 3)).save('a/cmyk.jpg')
    Image.new('RGB', (700, 1)).save('a/broken.jpg')
    Path('a', 'broken.jpg').write_bytes(Path('a', 'broken.jpg').read_bytes()[:-300])
    found = find_images(['a'])
    with pytest.raises(SystemExit) as stopped:
        run('a', '--output', 'out', '--format', form, checkpoint=trained[0])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert re.search("Cannot read image 'a/broken.jpg': .*\n1 of 7 images cannot be read.\n$", error)
    content = Path('out').read_bytes()
    if form == 'table':
        assert len(content.splitlines()) == 8 and rb'line\nbreak.png' in content
        return
    if form == 'csv':
        with open('out', newline='', errors='surrogateescape') as file:
            rows = list(csv.DictReader(file))
    else:
        rows = json.loads(content) if form == 'json' else [json.loads(line) for line in content.splitlines()]
    assert [row['file'] for row in rows] == found
    assert [row['file'] for row in rows if row.get('error')] == ['a/broken.jpg']
    if form != 'json':
        with pytest.raises(SystemExit):
            run('a', '--output', 'out', '--format', form, '--resume', checkpoint=trained[0])
        assert Path('out').read_bytes() == content and '1 of 7' in capsys.readouterr().err


def test_format_by_suffix_and_by_terminal(trained, photos, monkeypatch, capsys):
    checkpoint = trained[0]
    run('a', checkpoint=checkpoint)
    printed = capsys.readouterr()
    assert len([json.loads(line) for line in printed.out.splitlines()]) == 7
    assert re.fullmatch(r'Weights: (raw|average), which had the better metric in training; .*\n', printed.err)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    run('a', checkpoint=checkpoint)
    printed = capsys.readouterr()
    head, *lines = printed.out.splitlines()
    assert re.fullmatch('file +labels', head) and len(lines) == 7
    assert all(re.fullmatch(r'a/\d.png +(-|\w.* [01]\.\d\d)', line.strip()) for line in lines), lines
    assert '7/7' in printed.err and 'img/s' in printed.err
    run('a', '--output', 'o.CSV', checkpoint=checkpoint)
    with open('o.CSV', newline='') as file:
        rows = list(csv.DictReader(file))
    run('a', '--output', 'o.json', checkpoint=checkpoint)
    for row, other in zip(rows, json.loads(Path('o.json').read_text()), strict=True):
        labels = list(zip(row['labels'].split(';'), map(float, row['scores'].split(';'))) if row['labels'] else ())
        assert labels == [(label['label'], label['score']) for label in other['labels']]
    run('a/0.png', '--output', 'o.json', checkpoint=checkpoint)  # overwritten
    assert len(json.loads(Path('o.json').read_text())) == 1


def test_stop_at_an_unreadable_image(trained, photos, capsys):
    Path('a/2.png').write_bytes(b'no image')
    with pytest.raises(SystemExit) as stopped:
        command(['predict', 'a', '--checkpoint', trained[0], '--on-bad-image', 'error', '-b', '2', '-j', '0'])
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.err.startswith("error: Cannot read image 'a/2.png'")
    assert len(printed.out.splitlines()) == 2


@pytest.mark.parametrize('form', ['csv', 'jsonl'])
def test_resume_from_any_byte(form, trained, photos, monkeypatch):
    """A file cut at any byte becomes the same again, with rows that are kept and rows that are done again."""
    os.rename('a/1.png', 'a/1\n,"1".png')
    Path('a/4.png').write_bytes(b'no image')
    files = find_images(['a'])
    with pytest.raises(SystemExit):
        run('a', '--output', f'whole.{form}', checkpoint=trained[0])
    whole = Path(f'whole.{form}').read_bytes()
    done = []
    for size in range(len(whole)):
        Path('cut').write_bytes(whole[:size])
        kept = keep_rows('cut', form, files, 2)
        assert kept.files == files[: len(kept.files)] and len(kept.files) % 2 == 0
        assert kept.size <= size and kept.unreadable == (len(kept.files) > 4)
        assert whole[kept.size :].startswith(b'{"file"' if form == 'jsonl' else b'a/') or not kept.files
        done.append(len(kept.files))
    assert sorted(set(done)) == [0, 2, 4, 6] and done == sorted(done)
    assert len(keep_rows(f'whole.{form}', form, files, 2).files) == 7

    for size in (0, 5, len(whole) // 2, len(whole) - 1, len(whole)):
        Path(f'cut.{form}').write_bytes(whole[:size])
        with pytest.raises(SystemExit) as stopped:
            run('a', '--output', f'cut.{form}', '--resume', checkpoint=trained[0])
        assert stopped.value.code == 1 and Path(f'cut.{form}').read_bytes() == whole
    os.unlink(f'cut.{form}')
    with pytest.raises(SystemExit):
        run('a', '--output', f'cut.{form}', '--resume', checkpoint=trained[0])
    assert Path(f'cut.{form}').read_bytes() == whole


def test_resume_with_more_images(trained, photos):
    run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    first = rows_of('o.jsonl')
    save_image(photos / 'a' / '00.png', 9)
    run('./a', '--output', 'o.jsonl', '--resume', checkpoint=trained[0])  # the same files by another name
    rows = rows_of('o.jsonl')
    assert rows[:6] == first[:6] and len(rows) == 8
    assert sorted(Path(row['file']).name for row in rows) == sorted(os.listdir('a'))


@pytest.mark.parametrize('form', ['csv', 'jsonl'])
def test_resume_of_another_run(form, trained, photos):
    """Rows of other flags, of another model or of other images are not mixed with those of before."""
    output = f'o.{form}'
    state = torch.load(trained[0], weights_only=False)
    state['state_dict']['head_label.bias'] += 0.1
    torch.save(state, 'other.pth.tar')
    run('a', '--output', output, '--threshold', '1e-9', checkpoint=trained[0])
    whole = Path(output).read_bytes()
    cut = b''.join(whole.splitlines(keepends=True)[: 5 + (form == 'csv')])
    Path('names.txt').write_text('\n'.join(f'a/{i}.png' for i in (0, 1, 3, 4, 5, 6)))
    for images, flags, checkpoint, message in (
        (
            'a',
            ['--threshold', '1e-9'],
            'other.pth.tar',
            f"'{output}' was begun with other weights. .*--output",
        ),
        ('a', ['--threshold', '1e-9', '--use-ema'], trained[0], 'with other weights.'),
        ('a', ['--threshold', '1e-9', '--topk', '2'], trained[0], 'with other topk.'),
        ('a', ['--threshold', '1e-9', '--img-size', '64'], trained[0], 'preprocessing'),
        ('a', ['--threshold', '0.9999'], trained[0], 'with other threshold.'),
        ('a', ['--threshold', '1e-9', '--bit-depth', '12'], trained[0], 'with other reading.'),
        ('a', ['--threshold', '1e-9', '--background', 'black'], trained[0], 'with other reading.'),
        ('names.txt', ['--threshold', '1e-9'], trained[0], f"'{output}' has a row of 'a/2.png'.* another --output"),
    ):
        Path(output).write_bytes(cut)
        with pytest.raises(ValueError, match=message) as error:
            run(images, '--output', output, '--resume', *flags, checkpoint=checkpoint)
        assert '\n' not in str(error.value) and Path(output).read_bytes() == cut
    run('a', '--output', output, '--resume', '--threshold', '1e-9', checkpoint=trained[0])
    assert Path(output).read_bytes() == whole
    with pytest.raises(ValueError, match='with other weights, threshold.'):  # though nothing is left to do
        run('a', '--output', output, '--resume', checkpoint='other.pth.tar')
    assert Path(output).read_bytes() == whole
    os.unlink(f'{output}.run.json')  # without it, the last batch is repeated
    for cut_or_whole in (cut, whole):
        Path(output).write_bytes(cut_or_whole)
        with pytest.raises(ValueError, match=f"flags, model or images differ .*'{output}'.*--output"):
            run('a', '--output', output, '--resume', '--threshold', '1e-9', checkpoint='other.pth.tar')
        assert Path(output).read_bytes() == cut_or_whole
    run('a', '--output', output, '--resume', '--threshold', '1e-9', checkpoint=trained[0])
    assert Path(output).read_bytes() == whole
    with pytest.raises(ValueError, match="a row of 'a/2.png'"):
        run('names.txt', '--output', output, '--resume', checkpoint=trained[0])
    assert Path(output).read_bytes() == whole


def test_resume_after_a_kill(trained, photos, one_thread, monkeypatch):
    for i in range(40):
        save_image(photos / 'many' / f'{i:02d}.png', i)
    flags = ['--checkpoint', trained[0], '-b', '3', '-j', '0', '--device', 'cpu', '--threshold', '0.1']

    def predict_slowly():  # enough to be killed in the middle
        row = prediction_rows._row
        monkeypatch.setattr(prediction_rows, '_row', lambda *args: (time.sleep(0.02), row(*args))[1])
        predict(['many', *flags, '--output', 'cut.jsonl'])

    process = fork(predict_slowly)
    while not os.path.exists('cut.jsonl') or Path('cut.jsonl').read_bytes().count(b'\n') < 10:
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert 10 <= Path('cut.jsonl').read_bytes().count(b'\n') < 40
    predict(['many', *flags, '--output', 'cut.jsonl', '--resume'])
    predict(['many', *flags, '--output', 'whole.jsonl'])
    assert len(rows_of('whole.jsonl')) == 40
    assert Path('cut.jsonl').read_bytes() == Path('whole.jsonl').read_bytes()


def test_reader_that_stops_early(trained, photos, one_thread):
    argv = ['predict', 'a', '--checkpoint', trained[0], '-j', '0', '-b', '1', '--device', 'cpu']
    reading, writing = os.pipe()
    os.close(reading)
    process = fork(lambda: command(argv), stdout=writing, stderr=os.open('stderr.txt', os.O_WRONLY | os.O_CREAT))
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert not Path('stderr.txt').read_text() and code == 141


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite(value, trained, photos, monkeypatch):
    def load_broken(*args):
        weights = load_weights(*args)
        weights.tensors['head_label.bias'].fill_(value)
        return weights

    run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    finished = Path('o.jsonl').read_bytes()
    load_weights = factory.load_weights
    monkeypatch.setattr(factory, 'load_weights', load_broken)
    with pytest.raises(ValueError, match="'a/0.png' are not finite"):
        run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    assert Path('o.jsonl').read_bytes() == finished


def test_output_is_not_touched_by_a_run_that_fails_at_once(trained, photos):
    run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    finished = Path('o.jsonl').read_bytes()
    Path('a/0.png').write_bytes(b'no image')
    for flags in (['--device', 'foo'], ['--device', 'meta'], ['-j', '-1'], ['--on-bad-image', 'error']):
        with pytest.raises((ValueError, BadImageError)):
            predict(['a', '--output', 'o.jsonl', '--checkpoint', trained[0], '-j', '0', *flags])
        assert Path('o.jsonl').read_bytes() == finished


def test_two_runs_do_not_mix_their_rows(trained, photos, monkeypatch):
    run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    finished = Path('o.jsonl').read_bytes()
    os.symlink('o.jsonl', 'link.jsonl')
    with locked(photos, 'predict', 'o.jsonl'):  # as by a run that has not written yet
        for output, *flags in (['o.jsonl'], ['o.jsonl', '--resume'], [photos / 'o.jsonl'], ['link.jsonl']):
            with pytest.raises(ValueError, match="Another predict is at work on '.*/o.jsonl'.* another file"):
                run('a', '--output', output, *flags, '--threshold', '0.1', checkpoint=trained[0])
        assert Path('o.jsonl').read_bytes() == finished
        run('a', '--output', 'other.jsonl', checkpoint=trained[0])
    row = prediction_rows._row

    def row_and_another_run(*args):
        with pytest.raises(ValueError, match='Another predict is at work'):
            run('a', '--output', 'o.jsonl', checkpoint=trained[0])
        return row(*args)

    monkeypatch.setattr(prediction_rows, '_row', row_and_another_run)
    run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    assert Path('o.jsonl').read_bytes() == Path('other.jsonl').read_bytes() == finished
    assert not list(photos.glob('.*'))


def test_output_that_is_no_file(trained, photos):
    os.mkfifo('pipe')
    with open(os.open('pipe', os.O_RDWR), 'rb'):
        run('a', '--output', 'pipe', '--format', 'jsonl', checkpoint=trained[0])
    assert sorted(os.listdir()) == ['a', 'pipe']


@pytest.mark.parametrize('error', [MemoryError, RuntimeError, ZeroDivisionError])
def test_image_that_the_transform_can_not_take(trained, photos, monkeypatch, capsys, error):
    """As one whose sides are too different to be resized."""

    def create_transform(**kwargs):
        transform = timm.data.create_transform(**kwargs)

        def transform_some(image):
            if image.size == (32, 42):
                raise error
            return transform(image)

        return transform_some

    save_image(photos / 'a' / '1.png', 0, (42, 32))
    monkeypatch.setattr(predictor, 'create_transform', create_transform)
    with pytest.raises(SystemExit) as stopped:
        run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    assert stopped.value.code == 1 and f"Cannot read image 'a/1.png': {error.__name__}" in capsys.readouterr().err
    assert ['error' in row for row in rows_of('o.jsonl')] == [False, True, *[False] * 5]


def test_errors_are_one_line(trained, photos, capsys):
    checkpoint = ['--checkpoint', trained[0]]
    save_thresholds('other.json', ['cat'], np.array([0.5]), 0.5)
    Path('names.txt').write_text('a;b\n' + '\n'.join('cdefghi'))
    Path('other.pth').write_bytes(b'no checkpoint')
    torch.save(torch.load(trained[0], weights_only=False)['state_dict'], 'plain.pth')
    plain = ['--checkpoint', 'plain.pth', '--model', 'gkgnet_ti_224', *FLAGS]
    Path('rows.jsonl').write_text('{"file": "a/0.png", "labels": []}\n{"name": "a/1.png"}\n')
    Path('rows.csv').write_text('image,labels\n')
    Path('twice.csv').write_text(2 * 'file,labels,scores,error\n')
    cases = [
        (['a'], 'No weights'),
        (['a', '--model', 'gkgnet_576'], 'No weights'),
        (['a', '--model', 'gkgnet_577', '--pretrained'], "Unknown model 'gkgnet_577'.*gkgnet_576"),
        (['a', '--checkpoint', 'nope.pth'], "'nope.pth' does not exist"),
        (['a', '--checkpoint', 'nope.safetensors', '--model', 'gkgnet_576'], "'nope.safetensors' does not exist"),
        (['a', '--checkpoint', 'other.pth'], "'other.pth' is damaged or not a checkpoint"),
        (['a', *checkpoint, '--model', 'resnet10t'], "is of model 'gkgnet_ti_224', not 'resnet10t'"),
        (['a', *checkpoint, '--model-kwargs', 'depths=(2,1,1,1)'], 'does not fit'),
        (['a', *checkpoint, '--class-map', 'nope.txt'], 'nope.txt'),
        (['a', *plain, '--class-map', 'names.txt', '--format', 'csv'], '";" that separates'),
        (['a', *checkpoint, '--class-map', 'names.txt'], "'names.txt' has names different from.*leave it out"),
        (['a', '--checkpoint', 'plain.pth'], "'plain.pth' does not say which model it is of, give --model NAME"),
        (['a', *checkpoint, '--device', 'foo'], "--device 'foo'"),
        (['a', *checkpoint, '--device', 'cuda:99'], "--device 'cuda:99'"),
        (['a', *checkpoint, '--workers=-1'], '--workers must be at least 0, got -1'),
        (['a', *checkpoint, '--img-size', '0'], '--img-size must be at least 1, got 0'),
        (['a', *checkpoint, '--output', 'a', '--format', 'csv'], "--output 'a' is a folder"),
        (['a', *checkpoint, '--img-size', '33'], '33'),
        (['a', *checkpoint, '--threshold', 'other.json'], "'other.json' has other classes: 1 where the model has 8"),
        (['a', *checkpoint, '--threshold', '2'], '--threshold.*got 2'),
        (['a', *checkpoint, '--threshold', 'nope.json'], "'nope.json' is neither"),
        (['a', *checkpoint, '--topk', '0'], '--topk must be at least 1'),
        (['a', *checkpoint, '-b', '0'], '--batch-size must be'),
        (['a', 'nothing/*.jpg', *checkpoint], r"Nothing found: 'nothing/\*.jpg' is not an image"),
        (['a', *checkpoint, '--output', 'o.xml'], "'o.xml' does not end in .*--format"),
        (['a', *checkpoint, '--output', 'nowhere/o.csv'], "--output 'nowhere/o.csv': there is no such folder"),
        (['a', *checkpoint, '--resume'], '--resume'),
        (['a', *checkpoint, '--resume', '--output', 'o.json'], '--resume.*csv or jsonl'),
        (['a', *checkpoint, '--resume', '--output', 'rows.jsonl'], "row 2 of 'rows.jsonl' is not jsonl"),
        (['a', *checkpoint, '--resume', '--output', 'rows.csv'], "row 1 of 'rows.csv' is not csv"),
        (['a', *checkpoint, '--resume', '--output', 'twice.csv'], "row 2 of 'twice.csv' is not csv"),
        (
            ['a', *FLAGS, '--model', 'gkgnet_576', '--pretrained', '--use-ema'],
            "--use-ema: 'gkgnet_576' (has|holds) no average",
        ),
    ]
    before = {path: path.read_bytes() for path in photos.glob('*.*')}
    for argv, message in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(['predict', *(['-j', '0'] if '-b' in argv else ['-j', '0', '-b', '2']), *argv])
        assert stopped.value.code == 2, argv
        printed = capsys.readouterr()
        assert printed.err.count('\n') == 1 and re.search(message, printed.err), (argv, printed.err)
        assert not printed.out
    assert before == {path: path.read_bytes() for path in photos.glob('*.*')}  # no output has been touched
    with pytest.raises(SystemExit) as stopped:
        command(['predict', 'a', *checkpoint, '--format', 'xml'])
    assert stopped.value.code == 2 and "invalid choice: 'xml'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        command(['predict', 'a', *checkpoint, '--model-kwargs', 'k'])
    assert stopped.value.code == 2 and "expected KEY=VALUE, got 'k'" in capsys.readouterr().err


def test_help_tells_the_columns(capsys):
    with pytest.raises(SystemExit):
        command(['predict', '--help'])
    assert 'file, labels and scores' in ' '.join(capsys.readouterr().out.split())


def test_rows_that_are_doubled_and_rounded_differently(trained, photos):
    """A row of another number of threads differs in its last digits, and two rows of a file are named."""
    run('a', '--output', 'o.jsonl', checkpoint=trained[0])
    rows = rows_of('o.jsonl')
    for row in rows:
        for label in row['labels']:
            label['score'] = round(label['score'] + 1e-5, 6)
    lines = [json.dumps(row) + '\n' for row in rows]
    os.unlink('o.jsonl.run.json')  # so that the last batch is repeated
    Path('o.jsonl').write_text(''.join(lines[:5]))
    run('a', '--output', 'o.jsonl', '--resume', checkpoint=trained[0])
    assert rows_of('o.jsonl')[:4] == rows[:4] and len(rows_of('o.jsonl')) == 7
    Path('o.jsonl').write_text(''.join([*lines, lines[2]]))
    with pytest.raises(ValueError, match="rows 3 and 8 of 'o.jsonl' are both of 'a/2.png'"):
        run('a', '--output', 'o.jsonl', '--resume', checkpoint=trained[0])


def test_links_that_loop_are_walked_once(photos):
    for name in ('u1', 'u2'):
        os.symlink('.', photos / 'a' / name)
    os.symlink('..', photos / 'a' / 'up')
    os.mkdir(photos / 'elsewhere')
    save_image(photos / 'elsewhere' / 'x.png', 0)
    os.symlink('../elsewhere', photos / 'a' / 'other')
    names = [f'a/{i}.png' for i in range(7)] + ['a/other/x.png']
    assert find_images(['a']) == names and find_images(['a/**/*.png']) == names
    assert find_images(['**/0.png']) == ['a/0.png'] and find_images(['a/**']) == names


def test_list_in_utf_16(photos):
    os.rename('a/1.png', 'a/größe 猫.png')
    names = ['a/0.png', 'a/größe 猫.png']
    for encoding in ('utf-16', 'utf-8', 'utf-8-sig'):
        Path('list.txt').write_text('\r\n'.join(names), encoding=encoding)
        assert find_images(['list.txt']) == names
    Path('list.txt').write_text('\n'.join(names), encoding='utf-16-le')
    with pytest.raises(ValueError, match="'list.txt' is not text .*UTF-8"):
        find_images(['list.txt'])


OVERWRITTEN = {'a/0.jpeg': 'name of an image', 'list.txt': 'is read by this', 'model.csv': 'is read by this'}


@pytest.mark.parametrize('output, message', OVERWRITTEN.items())
def test_output_that_would_overwrite_what_is_read(output, message, trained, photos):
    Path('list.txt').write_text('a/0.png')
    shutil.copy(trained[0], 'model.csv')
    before = Path(output).read_bytes() if os.path.exists(output) else None
    with pytest.raises(ValueError, match=message):
        run('list.txt', '--output', output, '--format', 'csv', checkpoint='model.csv')
    assert (Path(output).read_bytes() if os.path.exists(output) else None) == before


class Notebook(io.StringIO):
    """The stdout of Jupyter: no `reconfigure`, no bytes below."""


def test_stdout_of_a_notebook_and_of_an_ascii_terminal(trained, photos, monkeypatch):
    os.rename('a/1.png', 'a/größe.png')
    monkeypatch.setattr(sys, 'stdout', Notebook())
    run('a', checkpoint=trained[0])
    assert 'a/größe.png' in sys.stdout.getvalue()
    for isatty, shown in ((True, rb'a/gr\xf6\xdfe.png'), (False, 'a/größe.png'.encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
        monkeypatch.setattr(stream, 'isatty', lambda isatty=isatty: isatty, raising=False)
        monkeypatch.setattr(sys, 'stdout', stream)
        run('a', '--format', 'csv', checkpoint=trained[0])
        stream.flush()
        assert shown in stream.buffer.getvalue()
