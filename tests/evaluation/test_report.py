"""Figures by class against the totals and scikit-learn, files of scores, plots, and areas of COCO objects."""

import csv
import json
import warnings
import zipfile

import numpy as np
import pytest
import torch
from pictures import BLUE, read_picture, share_of

from gkgnet_timm.data import CocoReader
from gkgnet_timm.evaluation import plots
from gkgnet_timm.evaluation.class_report import class_report, write_class_report
from gkgnet_timm.evaluation.curves import confusion_counts, confusion_shares, precision_at
from gkgnet_timm.evaluation.plots import draw_plots
from gkgnet_timm.evaluation.scores_file import exact_scores, load_scores, save_scores
from gkgnet_timm.evaluation.thresholds import calibrate
from gkgnet_timm.metrics import average_precision, multilabel_metrics

PLOTS = {'precision_recall.png', 'ap_by_class.png', 'cooccurrence.png'}


def make_rows(images=60, classes=6, unknown=True):
    """Scores with ties, and targets; class 1 has no positive, class 2 no prediction."""
    rng = np.random.default_rng(images)
    targets = rng.choice([-1, 0, 1], (images, classes), p=[0.1, 0.6, 0.3]).astype(np.int8)
    targets[:, 1:2] = np.minimum(targets[:, 1:2], 0)
    scores = (0.6 * rng.random(targets.shape) + 0.3 * (targets > 0)).round(2).astype(np.float32)
    scores[:, 2:3] /= 4
    return scores, targets if unknown else np.maximum(targets, 0)


def names_of(classes):
    return [f'class {i}' for i in range(classes)]


# --- figures by class


@pytest.mark.parametrize('threshold', [0.5, 0.3, [0.1, 0.2, 0.1, 0.4, 0.5, 0.6]])
def test_means_are_the_totals(threshold):
    scores, targets = make_rows()
    rows = class_report(torch.from_numpy(scores), targets, names_of(6), threshold)
    metrics = multilabel_metrics(scores, targets, threshold)
    for name, total in (('AP', 'mAP'), ('precision', 'CP'), ('recall', 'CR')):
        assert np.mean([row[name] for row in rows]) == pytest.approx(metrics[total], abs=1e-9)
    assert [row['AP'] for row in rows] == metrics['per_class_ap'].tolist()
    assert [row['positives'] for row in rows] == (targets > 0).sum(axis=0).tolist()
    assert [row['best_threshold'] for row in rows] == calibrate(scores, targets)[0].tolist()
    assert list(rows[1].values())[:6] == ['class 1', 0, 0, 0, 0, 0]
    best = class_report(scores, targets, names_of(6), [row['best_threshold'] for row in rows])
    assert all(after['F1'] >= before['F1'] for before, after in zip(rows, best))


def test_sklearn():
    sklearn_metrics = pytest.importorskip('sklearn.metrics')
    scores, targets = make_rows(unknown=False)
    rows = class_report(scores, targets, names_of(6), 0.4)
    expected = sklearn_metrics.precision_recall_fscore_support(targets, scores >= np.float32(0.4), zero_division=0)
    for name, values in zip(('precision', 'recall', 'F1'), expected):
        assert [row[name] for row in rows] == pytest.approx(100 * values, abs=1e-9)
    assert rows[1]['F1'] == rows[2]['precision'] == 0


def test_class_report_file(tmp_path):
    scores, targets = make_rows()
    rows = class_report(scores, targets, ['a,b', 'é', 'c"d', 'd', 'e', 'f'])
    write_class_report(tmp_path / 'report.csv', rows)
    with open(tmp_path / 'report.csv', newline='', encoding='utf-8') as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ['name', 'positives', 'AP', 'precision', 'recall', 'F1', 'best_threshold']
    assert [row['name'] for row in read] == [row['name'] for row in rows]
    assert read[0]['positives'] == str(rows[0]['positives']) and read[0]['AP'] == f'{rows[0]["AP"]:.4f}'
    assert float(read[0]['best_threshold']) == pytest.approx(rows[0]['best_threshold'], rel=1e-5)
    write_class_report(tmp_path / 'tiny.csv', class_report([[3e-7], [1e-7]], [[1], [0]], ['rare']))
    assert (tmp_path / 'tiny.csv').read_text().splitlines()[1].endswith(',2e-07')


def test_wrong_number_of_names(tmp_path):
    scores, targets = make_rows()
    for call in (
        lambda: class_report(scores, targets, ['a']),
        lambda: draw_plots(tmp_path, scores, targets, ['a']),
        lambda: save_scores(tmp_path / 'a', scores, targets, names_of(60), ['a']),
    ):
        with pytest.raises(ValueError, match='scores have 6 classes, but there are 1 class names'):
            call()
    with pytest.raises(ValueError, match='60 images, but there are 1 files'):
        save_scores(tmp_path / 'a', scores, targets, ['a'], names_of(6))
    assert not list(tmp_path.iterdir())


# --- files of scores


def test_scores_round_trip(tmp_path):
    scores, targets = make_rows(3, 2)
    files, classes = ['a.jpg', 'ä/猫.png', '\udcff.jpg'], ['é', 'b']
    for path in (tmp_path / 'scores.npz', tmp_path / 'scores'):
        save_scores(path, torch.from_numpy(scores), torch.from_numpy(targets).float(), files, classes)
        loaded = load_scores(str(path))
        assert loaded[0].dtype == np.float32 and (loaded[0] == scores).all()
        assert loaded[1] is loaded[0] and loaded[2].dtype == np.int8 and (loaded[2] == targets).all()
        assert loaded[3:] == (files, classes) and {type(name) for name in loaded[3] + loaded[4]} == {str}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['scores', 'scores.npz']


def content(**arrays):
    scores, targets = make_rows(3, 2)
    return {'scores': scores, 'targets': targets, 'files': list('xyz'), 'classes': list('ab'), **arrays}


@pytest.mark.parametrize('dtype, target_dtype', [('>f8', '>i8'), ('f2', bool), ('f4', 'i1')])
def test_scores_from_elsewhere(tmp_path, dtype, target_dtype):
    arrays = content(targets=np.ones((3, 2), target_dtype))
    np.savez(tmp_path / 'a.npz', **{**arrays, 'scores': np.asfortranarray(arrays['scores'].astype(dtype))}, more=[1])
    scores, _, targets, *_ = load_scores(tmp_path / 'a.npz')
    assert scores.dtype == (np.float64 if dtype == '>f8' else np.float32)
    assert targets.dtype == np.int8 and (targets == 1).all()
    assert (scores == arrays['scores'].astype(dtype)).all()


def test_scores_rank_as_they_were_stored(tmp_path):
    """In float32 all of these are 1."""
    scores = 1 - np.array([[1e-9], [2e-9], [3e-9]])
    save_scores(tmp_path / 'a.npz', scores, [[1], [0], [0]], list('xyz'), ['a'])
    loaded = load_scores(tmp_path / 'a.npz')
    assert loaded[0].dtype == np.float64 and (loaded[0] == scores).all()
    assert multilabel_metrics(*loaded[1:3])['mAP'] == 100


def test_logits_rank_what_ties_as_scores(tmp_path):
    logits = np.array([[60.0], [50.0], [40.0]], np.float32)
    save_scores(tmp_path / 'a.npz', exact_scores(logits), [[1], [0], [0]], list('xyz'), ['a'], logits)
    scores, ranking, targets, *_ = load_scores(tmp_path / 'a.npz')
    assert (scores == 1).all() and (ranking == logits).all()
    assert class_report(scores, targets, ['a'])[0]['AP'] == pytest.approx(100 / 3)
    assert class_report(scores, targets, ['a'], ranking=ranking)[0]['AP'] == 100
    save_scores(tmp_path / 'a.npz', scores / 2, [[1], [0], [0]], list('xyz'), ['a'], logits)
    assert_refused(tmp_path / 'a.npz', 'scores are not those of the logits')
    np.savez(tmp_path / 'a.npz', **content(logits=np.zeros((2, 2))))
    assert_refused(tmp_path / 'a.npz', 'targets|logits')


def assert_refused(path, message):
    with pytest.raises(ValueError, match=message) as error:
        load_scores(path)
    assert '\n' not in str(error.value) and repr(str(path)) in str(error.value)


@pytest.mark.parametrize(
    'arrays, message',
    [
        (dict(scores=np.zeros(3)), r'scores must be floats in 2 dimensions, got float64 of shape \(3,\)'),
        (dict(scores=np.zeros((3, 2), int)), 'scores must be floats'),
        (dict(scores=np.zeros((3, 2), complex)), 'scores must be floats'),
        (dict(scores=np.zeros((2, 2))), r'got \(2, 2\) and \(3, 2\)'),
        (dict(scores=np.full((3, 2), np.nan)), 'scores have nan, first in row 0, column 0'),
        (dict(scores=np.full((3, 2), -2.5)), 'probabilities, got -2.5 to -2.5'),
        (dict(scores=np.full((3, 2), 1.001)), 'probabilities, got 1.001 to 1.001'),
        (dict(scores=np.full((3, 2), np.inf)), 'probabilities, got inf'),
        (dict(targets=np.zeros((3, 2))), 'targets must be integers'),
        (dict(targets=np.full((3, 2), 255, np.uint8)), 'targets must be -1, 0 or 1, got 255'),
        (dict(scores=np.zeros((0, 2)), targets=np.zeros((0, 2), int), files=np.array([], str)), 'Nothing to evaluate'),
        (dict(files=['x']), '3 images, but there are 1 files'),
        (dict(files=[1, 2, 3]), 'files must be text'),
        (dict(files=[b'x', b'y', b'z']), 'files must be text'),
        (dict(files='x'), 'files must be text in 1 dimension'),
        (dict(classes=['a']), '2 classes, but there are 1 class names'),
        (dict(classes=['a', 'a']), "names class 'a' twice"),
        (dict(classes=[['a', 'b']]), 'classes must be text'),
    ],
)
def test_bad_scores(tmp_path, arrays, message):
    np.savez(tmp_path / 'bad\n.npz', **content(**arrays))
    assert_refused(tmp_path / 'bad\n.npz', message)


@pytest.mark.parametrize('key', ['scores', 'targets', 'files', 'classes'])
def test_missing_or_pickled_array(tmp_path, key):
    arrays = content()
    del arrays[key]
    np.savez(tmp_path / 'a.npz', **arrays)
    assert_refused(tmp_path / 'a.npz', f"has no array '{key}'")
    trace = tmp_path / 'trace'

    class Call:
        def __reduce__(self):
            return open, (str(trace), 'w')

    np.savez(tmp_path / 'a.npz', **arrays, **{key: np.array([Call()], object)})
    assert_refused(tmp_path / 'a.npz', 'not an npz of arrays without objects')
    assert not trace.exists()


def test_damaged_scores(tmp_path):
    path = tmp_path / 'a.npz'
    save_scores(path, **{'class_names' if key == 'classes' else key: value for key, value in content().items()})
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for data in (b'', b'text', good[:50], good[:-30], good[40:], json.dumps([1]).encode()):
        path.write_bytes(data)
        assert_refused(path, 'not an npz')
    for _ in range(150):  # some damage is not to be seen, such as in a date
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            load_scores(path)
        except ValueError as error:
            assert str(error).startswith('Scores file') and '\n' not in str(error)
    with open(path, 'wb') as file:
        np.save(file, np.zeros(3))
    assert_refused(path, 'not an npz')
    with zipfile.ZipFile(path, 'w') as archive:  # members that are no arrays
        for key in content():
            archive.writestr(key, 'text')
    assert_refused(path, 'scores must be floats')
    for name in ('nowhere.npz', ''):
        with pytest.raises(FileNotFoundError, match='does not exist'):
            load_scores(tmp_path / name)


# --- plots


def test_precision_at():
    scores, targets = np.array([0.9, 0.8, 0.8, 0.4, 0.3, 0.1]), np.array([0, 1, 0, -1, 1, 0])
    recalls = np.array([0.01, 0.5, 0.51, 1])
    precision, ap = precision_at(scores, targets, recalls)
    assert precision == pytest.approx([1 / 3, 1 / 3, 0.5, 0.5])
    assert ap == pytest.approx(average_precision(scores[:, None], targets[:, None])[0])


@pytest.mark.parametrize('images', [1, 40])
def test_confusion_by_counting(images):
    scores, targets = make_rows(images, 5)
    predicted = scores >= 0.3
    matrix = confusion_shares(*confusion_counts(predicted, targets))
    assert matrix.shape == (6, 5)
    for i, j in np.ndindex(matrix.shape):
        among = np.ones(images, bool) if i == 0 else targets[:, i - 1] == 1
        among = among & (targets[:, j] == 0) if i != j + 1 else among
        wrong = ~predicted[:, j] if i == j + 1 else predicted[:, j]
        expected = 100 * wrong[among].mean() if among.any() else np.nan
        assert matrix[i, j] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize('images, classes', [(1, 1), (1, 3), (30, 1), (30, 6), (40, 100), (5, 230)])
def test_plots(tmp_path, images, classes):
    scores, targets = make_rows(images, classes)
    names = ['_$x_$ \n' + 'long name ' * 9, '$', '', *names_of(classes)][:classes]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_plots(tmp_path / 'new' / 'folder', scores, targets, names, np.full(classes, 0.4) if images > 1 else 0.5)
    sizes = {path.name: read_picture(path).shape[:2] for path in (tmp_path / 'new' / 'folder').iterdir()}
    assert set(sizes) == PLOTS
    assert sizes['ap_by_class.png'][0] >= 10 * min(classes, plots.MAX_BARS)
    assert min(sizes['cooccurrence.png']) >= 10 * min(classes, plots.MAX_CELLS)


def test_plots_show_the_figures(tmp_path):
    """Bars are as long as the average precision; cells are red or blue where the model is wrong."""
    targets = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    good, poor = np.where(targets, 0.9, 0.1), np.where(targets, 0.1, 0.9)
    for name, scores in (('good', good), ('poor', poor)):
        draw_plots(tmp_path / name, scores, targets, ['a', 'b'])
    assert multilabel_metrics(good, targets)['mAP'] == 100
    mean = multilabel_metrics(poor, targets)['mAP'] / 100
    bars = [share_of(read_picture(tmp_path / name / 'ap_by_class.png'), BLUE) for name in ('good', 'poor')]
    assert bars[0] > 0.1 and bars[1] / bars[0] == pytest.approx(mean, abs=0.05)
    cells = [read_picture(tmp_path / name / 'cooccurrence.png').astype(int) for name in ('good', 'poor')]
    red, blue = ([((x[..., c] - x[..., 2 - c]) > 50).mean() for x in cells] for c in (0, 2))
    # four of six cells are of wrong labels and two of missed ones; the scales beside them always have colour
    assert red[1] - red[0] > 0.1 and blue[1] - blue[0] > 0.05
    curves = [read_picture(tmp_path / name / 'precision_recall.png') for name in ('good', 'poor')]
    assert (curves[0] != curves[1]).any()


def test_plots_with_names_that_the_font_lacks(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_plots(tmp_path, [[0.5, 0.1]], [[1, 0]], ['猫', 'ไก่'])
    assert {path.name for path in tmp_path.iterdir() if read_picture(path).size} == PLOTS
    assert capfd.readouterr().err.count('\n') <= 1


def test_plots_without_positives(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_plots(tmp_path, [[0.5, 0.1]], [[-1, 0]], ['a', 'b'])
    assert {path.name for path in tmp_path.iterdir() if read_picture(path).size} == PLOTS


# --- areas of COCO objects


def test_areas(coco_folder):
    path = coco_folder / 'annotations' / 'instances_val.json'
    data = json.loads(path.read_text())
    areas = [500.5, 2000, 9216, None, 0]  # two dogs and a crowd of persons in one image, a bottle, a person
    for annotation, area in zip(data['annotations'], areas):
        annotation['area'] = area
    path.write_text(json.dumps(data))
    nan = np.nan
    expected = np.array([[9216, 2000, nan], [nan] * 3, [nan, nan, nan], [0, nan, nan]])  # person, dog, bottle
    reader = CocoReader(path, coco_folder / 'val')
    assert reader.areas.dtype == np.float32 and np.array_equal(reader.areas, expected, equal_nan=True)
    metrics = multilabel_metrics(np.where(reader.targets, 0.9, 0.1), reader.targets, areas=reader.areas)
    assert [metrics[f'AP_{name}'] for name in ('small', 'medium', 'large')] == pytest.approx([100 / 3] * 3)
    reader = CocoReader(path, coco_folder / 'val', drop_unlabelled=True)
    assert np.array_equal(reader.areas, expected[[0, 2, 3]], equal_nan=True)

    for annotation, value in zip(data['annotations'], ('text', [1], float('nan'), True, 7)):
        del annotation['area']
        annotation['other'] = value
    path.write_text(json.dumps(data))
    assert np.isnan(CocoReader(path, coco_folder / 'val').areas).all()
