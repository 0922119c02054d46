"""Evaluation of checkpoints, folders of them and files of scores."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from pictures import read_picture
from PIL import Image
from reports import data_of
from runs import TINY
from screen import Screen

import timm
from timm.data import create_transform, resolve_model_data_config

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands import evaluated
from gkgnet_timm.commands import validate as validation
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import demo
from gkgnet_timm.data.splits import open_split
from gkgnet_timm.evaluation.evaluate import evaluate_dataset, evaluate_scores
from gkgnet_timm.evaluation.plots import draw_plots
from gkgnet_timm.evaluation.results import in_decimals
from gkgnet_timm.evaluation.scores_file import load_scores, save_scores
from gkgnet_timm.weights.load import load_model
from gkgnet_timm.weights.thresholds import load_threshold

pytestmark = pytest.mark.usefixtures('no_curves')


@pytest.fixture(scope='module')
def run(tmp_path_factory, small_demo):
    """A trained model with the average of its weights."""
    root = tmp_path_factory.mktemp('validate')
    train([*TINY, '--model-ema', '--model-ema-decay', '0.5', '--output', str(root), '--experiment', 'run'])
    return root / 'run'


@pytest.fixture
def checkpoint(run):
    return ['--checkpoint', str(run / 'last.pth.tar'), '-j', '0']


def test_raw_and_average_side_by_side(run, checkpoint, capsys):
    best, raw, ema = (validate([*checkpoint, *flags]) for flags in ([], ['--no-use-ema'], ['--use-ema']))
    assert raw['mAP'] == raw['mAP_raw'] == ema['mAP_raw'] and ema['mAP'] == ema['mAP_ema'] == raw['mAP_ema']
    last = list(csv.DictReader((run / 'summary.csv').open()))[-1]
    assert raw['mAP'] != ema['mAP'] and best == max(raw, ema, key=lambda result: result['mAP'])
    assert float(last['eval_mAP']) == best['mAP'] and float(last['eval_bce']) == best['bce']
    assert last['eval_weights'] == ('average' if best == ema else 'raw')
    printed = capsys.readouterr().out
    assert 'val: 11 images' in printed and 'raw weights: mAP' in printed and 'ema weights: mAP' in printed
    assert "crop_mode squash" in printed and 'Warning' not in printed
    assert printed.rstrip().endswith(json.dumps(in_decimals(ema), indent=4))  # the result comes last
    assert {'AP_medium', 'CF1_top3', 'mAP_present', 'chance'} <= raw.keys()


def test_other_preprocessing_is_warned_of(checkpoint, capsys):
    result = validate([*checkpoint, '--img-size', '64', '--crop-mode', 'center', '--crop-pct', '0.9'])
    printed = capsys.readouterr().out
    assert result['img_size'] == 64
    for name in ('input_size', 'crop_mode', 'crop_pct'):
        assert f'Warning: {name} is' in printed


def test_scores_are_evaluated_again_without_a_model(checkpoint, tmp_path):
    path = str(tmp_path / 'scores.npz')
    result = validate([*checkpoint, '--scores-out', path])
    again = validate(['--scores-in', path])
    assert again['scores'] == path and again['images'] == 11
    for name, value in again.items():
        assert name == 'scores' or value == result[name], name
    with np.load(path) as scores:
        assert scores['files'][0] == '000000.png' and scores['classes'].tolist() == list(demo.SHAPES)


def test_calibration_raises_f1(checkpoint, tmp_path, capsys):
    thresholds, table = str(tmp_path / 't.json'), tmp_path / 'classes.csv'
    plain = validate([*checkpoint, '--calibrate', thresholds])
    printed = capsys.readouterr().out
    calibrated = validate([*checkpoint, '--threshold', thresholds, '--metrics-by-class', str(table)])
    assert calibrated['CF1'] > plain['CF1'] and calibrated['mAP'] == plain['mAP']
    both = [f'{name} {plain[name]:.4f} before, {calibrated[name]:.4f} after' for name in ('CF1', 'OF1')]
    assert f'Thresholds of the classes, on these images: {"; ".join(both)}.\n' in printed
    assert f'Wrote {thresholds}.\n' in printed and f'Wrote {table}.\n' in capsys.readouterr().out
    rows = list(csv.DictReader(table.open()))
    assert [row['name'] for row in rows] == list(demo.SHAPES)
    assert np.mean([float(row['AP']) for row in rows]) == pytest.approx(plain['mAP'], abs=1e-4)
    assert np.mean([float(row['precision']) for row in rows]) == pytest.approx(calibrated['CP'], abs=1e-4)
    stored = json.loads((tmp_path / 't.json').read_text())
    assert [float(row['best_threshold']) for row in rows] == pytest.approx(list(stored['classes'].values()), abs=1e-4)
    overall = validate([*checkpoint, '--threshold', str(stored['threshold'])])
    assert overall['OF1'] >= plain['OF1']


def test_flip_takes_the_mean_of_both_logits(run, checkpoint, tmp_path, small_demo):
    paths = [str(tmp_path / f'{name}.npz') for name in ('plain', 'flipped')]
    validate([*checkpoint, '--no-use-ema', '--scores-out', paths[0]])
    validate([*checkpoint, '--no-use-ema', '--flip', '--scores-out', paths[1]])
    model = timm.create_model('gkgnet_ti_224', num_classes=8, img_size=32, **eval_kwargs())
    model.load_state_dict(torch.load(run / 'last.pth.tar', weights_only=False)['state_dict'])
    model.eval()
    config = resolve_model_data_config(model) | {'input_size': (3, 32, 32)}
    image = Image.open(small_demo / 'val' / '000004.png').convert('RGB')
    batch = create_transform(**config)(image)[None]
    with torch.inference_mode():
        expected = ((model(batch) + model(batch.flip(-1))) / 2).sigmoid()[0]
    plain, flipped = (np.load(path)['scores'][4] for path in paths)
    assert flipped == pytest.approx(expected.numpy(), abs=1e-5) and plain != pytest.approx(flipped, abs=1e-5)


def eval_kwargs():
    return dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)


def test_half_characters_in_scores(tmp_path):
    scores, targets = np.full((2, 1), 0.5, np.float32), np.array([[0], [1]], np.int8)
    save_scores(tmp_path / 's.npz', scores, targets, ['a', 'b'], ['\udc80'])
    with pytest.raises(ValueError, match=r"s.npz.*'\\udc80' with half a character"):
        load_scores(tmp_path / 's.npz')


def test_plots(checkpoint, tmp_path):
    """They are those of the scores that are stored, the thresholds included."""
    thresholds, path = str(tmp_path / 't.json'), str(tmp_path / 'scores.npz')
    validate([*checkpoint, '--calibrate', thresholds])
    validate([*checkpoint, '--threshold', thresholds, '--plots', str(tmp_path / 'plots'), '--scores-out', path])
    scores, ranking, targets, _, class_names = load_scores(path)
    draw_plots(tmp_path / 'expected', scores, targets, class_names, load_threshold(thresholds, class_names), ranking)
    for name in ('precision_recall.png', 'ap_by_class.png', 'cooccurrence.png'):
        assert np.array_equal(*(read_picture(tmp_path / folder / name) for folder in ('plots', 'expected')))
    assert len(list((tmp_path / 'plots').iterdir())) == 3


def test_report(run, checkpoint, small_demo, tmp_path, capsys):
    """It has pictures and where label nodes looked; of scores only, pictures of the images that are found."""
    path = str(tmp_path / 'scores.npz')
    validate([*checkpoint, '--no-use-ema', '--report', str(tmp_path / 'model'), '--scores-out', path])
    assert f'Wrote {path}, {tmp_path / "model" / "index.html"}.' in capsys.readouterr().out
    data = data_of(tmp_path / 'model' / 'index.html')
    assert dict(data['facts'])['Split'] == 'val' and data['images'] and data['looks']
    assert all(image['src'] and image['size'] == [96, 96] for image in data['images'])
    patches = next(iter(data['looks'].values()))
    assert {stage for stage, *_ in patches} == {1, 2, 3, 4} and {group for _, group, *_ in patches} == {1, 2}
    assert all(0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000 for _, _, x0, y0, x1, y1 in patches)
    for folder, expected in ((small_demo / 'val', data['images']), (tmp_path, [])):
        validate(['--scores-in', path, '--images', str(folder), '--report', str(tmp_path / 'scores')])
        again = data_of(tmp_path / 'scores' / 'index.html')
        assert [image for image in again['images'] if image.get('src')] == expected and again['looks'] == {}
        for name in ('classes', 'confusion', 'galleries'):
            assert again[name] == data[name], name
    assert 'none of the images was found' in again['pictures'] and '--images DIR' in again['pictures']
    for flag in ('--images', '--data-dir'):
        with pytest.raises(NotADirectoryError, match=f"{flag} 'nosuchdir' is no folder: --report"):
            validate(['--scores-in', path, flag, 'nosuchdir', '--report', str(tmp_path / 'scores')])


def test_report_needs_a_folder(run, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match="--report .*'file' is a file, give a folder"):
        validate(['--checkpoint', str(run / 'last.pth.tar'), '--report', str(tmp_path / 'file')])


def test_folder_of_checkpoints(run, tmp_path, capsys):
    for path in run.glob('*.pth.tar'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = tmp_path / 'results.csv'
    results = validate(['--checkpoint', str(tmp_path), '-j', '0', '--results-file', str(table)])
    assert len(results) == 4 and results[0]['mAP'] == max(result['mAP'] for result in results)
    rows = list(csv.DictReader(table.open()))
    assert [row['checkpoint'] for row in rows] == [result['checkpoint'] for result in results]
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        command(['validate', '--checkpoint', str(tmp_path), '-j', '0'])
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and '1 of 5 models could not be evaluated' in captured.err
    assert captured.out.count('"mAP"') == 4


def test_file_of_several_names_is_evaluated_once(run, capsys):
    """The best of a run is one of its numbered checkpoints, and the last one another or the same."""
    files = [path for path in run.glob('*.pth.tar')]
    different = {path.stat().st_ino for path in files}
    assert len(different) == 2 < len(files)
    results = validate(['--checkpoint', str(run), '-j', '0'])
    printed = capsys.readouterr().out
    names = [name for result in results for name in (result['checkpoint'], *result.get('also', '').split(', ')) if name]
    assert len(results) == 2 and sorted(map(os.path.basename, names)) == sorted(path.name for path in files)
    for result in results:
        also = result.get('also')
        assert f'/2] {result["checkpoint"]}' + (f' = {also}\n' if also else '\n') in printed
    assert 'precision' not in printed  # a table of classes for each of them would be too much


def test_table_of_classes_is_printed(checkpoint, capsys):
    validate(checkpoint)
    table = capsys.readouterr().out.partition('\nclass ')[2].partition('\n\n')[0].splitlines()
    assert len(table) == 1 + len(demo.SHAPES) and max(map(len, table)) < 80
    assert {line.split()[0] for line in table[1:]} == set(demo.SHAPES)


def test_folder_with_a_checkpoint_that_breaks(run, tmp_path, capsys, monkeypatch):
    """Whatever it raises, the others are evaluated; what remains is a list, also of one."""
    for name in ('a.pth.tar', 'b.pth.tar'):
        (tmp_path / name).write_bytes((run / 'last.pth.tar').read_bytes())

    def load_some(args, *rest, **kwargs):
        if args.checkpoint.endswith('a.pth.tar'):
            raise IndexError('out\nof range')
        return load_selected(args, *rest, **kwargs)

    load_selected = evaluated.load_selected
    monkeypatch.setattr(evaluated, 'load_selected', load_some)
    table = tmp_path / 'results.json'
    with pytest.raises(ValueError, match='1 of 2 models could not be evaluated: .*a.pth.tar'):
        validate(['--checkpoint', str(tmp_path), '-j', '0', '--results-file', str(table)])
    printed = capsys.readouterr().out
    assert 'a.pth.tar: IndexError: out of range\n' in printed
    (result,) = json.loads(table.read_text())
    assert (
        json.loads(printed.partition('--result\n')[2]) == [result]
        and f'Wrote {table}.' in printed
        and result['checkpoint'].endswith('b.pth.tar')
    )


@pytest.mark.parametrize('flag', ['--scores-out', '--calibrate', '--metrics-by-class', '--plots', '--report'])
def test_files_of_one_model_are_not_for_several(flag, run, tmp_path, capsys):
    for argv in (['--checkpoint', str(run)], ['--model', 'pvig_*', '--pretrained', '--dataset', 'demo']):
        with pytest.raises(ValueError, match=f'{flag}: for one model only, these are'):
            validate([*argv, '-j', '0', flag, str(tmp_path / 'out')])
    assert not capsys.readouterr().out and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('scale', [1.4, 100])
def test_large_logits_rank_alike_everywhere(scale, run, tmp_path, recwarn, monkeypatch):
    """Their probabilities are often 1 in float32; of yet larger ones in float64 too, and exp overflows on the way."""
    titles, set_title = [], Axes.set_title

    def note_title(axes, title, *args, **kwargs):
        titles.extend([title] if title.startswith('mAP') else [])
        return set_title(axes, title, *args, **kwargs)

    monkeypatch.setattr(Axes, 'set_title', note_title)
    state = torch.load(run / 'last.pth.tar', weights_only=False)
    torch.manual_seed(1)
    for key in ('state_dict', 'state_dict_ema'):
        for name in ('head_label', 'head_patch'):
            for part in ('weight', 'bias'):
                state[key][f'{name}.{part}'] = scale * torch.randn_like(state[key][f'{name}.{part}'])
    torch.save(state, tmp_path / 'large.pth.tar')
    path = str(tmp_path / 'scores.npz')
    flags = ['--checkpoint', str(tmp_path / 'large.pth.tar'), '-j', '0']
    report, plots = tmp_path / 'classes.csv', tmp_path / 'plots'
    result = validate([*flags, '--scores-out', path, '--metrics-by-class', str(report), '--plots', str(plots)])
    again = validate(['--scores-in', path])
    with np.load(path) as stored:
        scores = stored['scores']
    assert scores.dtype == np.float64 and np.count_nonzero(scores.astype(np.float32) == 1) > 10
    for name in ('CF1', 'OF1', 'CF1_top3', 'OF1_top3', 'CP_top3', 'mAP', 'mAP_present'):
        assert again[name] == result[name], name
    with open(report, newline='') as file:
        by_class = [float(row['AP']) for row in csv.DictReader(file)]
    assert np.mean(by_class) == pytest.approx(result['mAP'], abs=1e-3)
    assert titles == [f'mAP {result["mAP"]:.2f}, of classes with positives {result["mAP_present"]:.2f}']
    assert not [warning for warning in recwarn if 'overflow' in str(warning.message)]


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_scores_that_are_not_finite(value, run, tmp_path):
    state = torch.load(run / 'last.pth.tar', weights_only=False)
    state['state_dict']['head_label.bias'].fill_(value)
    torch.save(state, tmp_path / 'broken.pth.tar')
    with pytest.raises(
        ValueError, match='broken.pth.tar.* cannot be evaluated: scores have nan or inf, first in row 0'
    ):
        validate(['--checkpoint', str(tmp_path / 'broken.pth.tar'), '-j', '0'])


def test_other_data_set_than_that_of_the_training(run, checkpoint, tmp_path, monkeypatch):
    """The folder and the classes of the checkpoint's are not taken for it."""
    state = torch.load(run / 'last.pth.tar', weights_only=False)
    state['args'].update(data_dir=str(run), drop_unlabelled=True)
    torch.save(state, tmp_path / 'last.pth.tar')
    flags = ['--checkpoint', str(tmp_path / 'last.pth.tar')]
    with pytest.raises(ValueError, match='--dataset voc needs --data-dir'):
        validate([*flags, '--dataset', 'voc'])
    voc = ['--dataset', 'voc', '--data-dir', 'x']
    (other, trained), (same, _) = (validation.parse_args([*flags, *more]) for more in (voc, []))
    assert not other.drop_unlabelled and other.split is None and trained.class_names == list(demo.SHAPES)
    assert same.drop_unlabelled and same.data_dir == str(run) and same.split == 'val'
    with pytest.raises(FileNotFoundError, match='2007|VOC'):  # the usual split of that data set
        validate([*flags, *voc])


def test_python_use(checkpoint, tmp_path, capsys):
    """The metrics, scores and files of the command, without flags."""
    path = str(tmp_path / 'scores.npz')
    result = validate([*checkpoint, '--threshold', '0.4', '--scores-out', path])
    capsys.readouterr()
    model = load_model(checkpoint[1], name='gkgnet_ti_224', img_size=32, num_classes=8, **eval_kwargs())
    evaluation = evaluate_dataset(model, open_split('demo', verbose=False), threshold=0.4, workers=0, device='cpu')
    assert evaluation.metrics.keys() <= result.keys() and len(evaluation.metrics) == 17
    for name, value in evaluation.metrics.items():
        assert value == (pytest.approx(result[name], abs=1e-6) if name == 'bce' else result[name]), name
    scores, _, targets, files, class_names = load_scores(path)
    assert np.array_equal(evaluation.targets, targets) and evaluation.scores == pytest.approx(scores, abs=1e-6)
    assert evaluation.files == files and evaluation.class_names == class_names and not evaluation.unreadable
    again = evaluate_scores(path, threshold=0.4)
    assert again.metrics['mAP'] == result['mAP'] and again.metrics['CF1'] == result['CF1'] and again.threshold == 0.4
    dataset = open_split('demo', verbose=False)
    config = dict(resolve_model_data_config(model), mean=(0.1, 0.1, 0.1))
    for options in (dict(data_config=config), dict(flip=True)):
        other = evaluate_dataset(model, dataset, workers=0, device='cpu', **options)
        assert other.scores != pytest.approx(scores, abs=1e-6)
    assert not capsys.readouterr().out


def test_weights_of_other_origin(run, tmp_path):
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    torch.save(state, tmp_path / 'plain.pth')
    kwargs = [f'{key}={value}' for key, value in eval_kwargs().items()]
    flags = ['--model', 'gkgnet_ti_224', '--model-kwargs', *kwargs, '--img-size', '32', '--dataset', 'demo', '-j', '0']
    result = validate(['--checkpoint', str(tmp_path / 'plain.pth'), *flags])
    raw = validate(['--checkpoint', str(run / 'last.pth.tar'), '-j', '0', '--no-use-ema'])
    assert result['mAP'] == raw['mAP']


def test_errors_are_one_line(run, checkpoint, tmp_path, capsys):
    (tmp_path / 't.json').write_text('{"classes": {"cat": 0.5}}')
    (tmp_path / 'empty').mkdir()
    state = torch.load(run / 'last.pth.tar', weights_only=False)
    del state['state_dict_ema']
    torch.save(state, tmp_path / 'raw.pth.tar')
    torch.save(state['state_dict'], tmp_path / 'plain.pth')
    plain = ['--checkpoint', str(tmp_path / 'plain.pth')]
    cases = [
        ([*checkpoint, '--threshold', '2'], 'between 0 and 1'),
        ([*checkpoint, '--threshold', 'nope.json'], "'nope.json'"),
        ([*checkpoint, '--threshold', str(tmp_path / 't.json')], 'other classes'),
        ([*checkpoint, '--model', 'resnet18'], "is of model 'gkgnet_ti_224', not 'resnet18'"),
        ([*checkpoint, '--results-file', '/nowhere/r.json'], 'no such folder'),
        (['--checkpoint', str(tmp_path / 'raw.pth.tar'), '--use-ema'], 'no averaged weights'),
        (['--checkpoint', str(tmp_path / 'empty')], 'no checkpoint'),
        (['--scores-in', 'nope.npz'], 'nope.npz'),
        (['--scores-in', str(tmp_path / 't.json')], 't.json'),
        (['--model', 'nope*', '--pretrained'], 'no checkpoint or pretrained model'),
        (['--model', 'nope.txt', '--pretrained'], 'nope.txt'),
        ([], 'No weights'),
        ([*plain, '--dataset', 'demo'], 'does not say which model it is of, give --model NAME'),
        ([*plain, '--model', 'gkgnet_ti_224'], 'does not say what it was trained on, give --dataset NAME'),
        ([*checkpoint, '--dataset', 'vok'], "Unknown --dataset 'vok', expected demo, coco, voc"),
        ([*checkpoint, '--device', 'foo'], "--device 'foo'"),
        ([*checkpoint, '--device', 'cuda:99'], "--device 'cuda:99'"),
        ([*checkpoint, '--device', 'meta'], "--device 'meta'"),
        ([*checkpoint, '--mean', '0.5', '0.5'], '--mean, --std'),
        ([*checkpoint, '--results-file', str(tmp_path)], f"--results-file '{tmp_path}' is a folder"),
        ([*checkpoint, '--scores-out', str(tmp_path)], '--scores-out'),
        ([*checkpoint, '--metrics-by-class', str(tmp_path)], '--metrics-by-class'),
        ([*checkpoint, '--calibrate', str(tmp_path)], '--calibrate'),
        ([*checkpoint, '--plots', str(tmp_path / 't.json')], "'t.json' is a file, give a folder"),
        ([*checkpoint, '--plots', str(tmp_path / 't.json' / 'new')], "'t.json' is a file, give a folder"),
        (['--scores-in', 'nope.npz', '--use-ema'], '--use-ema'),
    ]
    for flag, *values in (
        ('--crop-pct', '0', '-1', 'nan', '1.6'),
        ('--batch-size', '0'),
        ('--workers', '-1'),
        ('--img-size', '0', '-32'),
        ('--num-samples', '0'),
        ('--num-classes', '0'),
    ):
        cases += [([*checkpoint, f'{flag}={value}'], f'{flag} must be') for value in values]
    for argv, message in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(['validate', *argv])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count('\n') == 1 and message in error, (argv, error)
    with pytest.raises(SystemExit) as stopped:
        command(['validate', *checkpoint, '--interpolation', 'foo'])
    assert stopped.value.code == 2 and "invalid choice: 'foo'" in capsys.readouterr().err


@pytest.mark.parametrize('name', ['nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming'])
def test_interpolation(name, checkpoint):
    assert validate([*checkpoint, '--interpolation', name, '--crop-mode', 'border'])['images'] == 11


def test_bar_on_a_terminal(run, capsys):
    """Of each kind of weights; what is printed is that of a pipe."""
    flags = ['validate', '--checkpoint', str(run), '--device', 'cpu', '-b', '4', '-j', '0']
    command(flags)
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    with Screen() as screen:
        command(flags)
    assert screen.lines == printed
    bars = [line for line in screen.drawn if line.startswith('evaluating |')]
    assert {len(line) for line in bars} == {77} and all(line.endswith(' left') for line in bars)
    first, last = (sum(figures in line for line in bars) for figures in ('| 0/11, ? img/s, ', '| 11/11, '))
    assert first == last >= 1
    with Screen(to_pipe='stderr') as screen:
        command(flags)
    assert screen.lines == printed and not any('evaluating' in line for line in screen.drawn)
