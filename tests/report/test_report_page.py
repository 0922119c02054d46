"""The page of a report, as it is written. What it does in a browser: test_report_in_browser.py."""

import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from reports import HOSTILE, data_of, links_of, make_evaluation, with_images

from gkgnet_timm.evaluation.class_report import class_report
from gkgnet_timm.metrics import average_precision, multilabel_metrics
from gkgnet_timm.report import pictures, thumbnails
from gkgnet_timm.report.page import write_report
from gkgnet_timm.report.words import describe_data

ORIGIN = dict(model='gkgnet_224', checkpoint='run/model_best.pth.tar', dataset='demo', split='val', img_size=224)


def write(folder, evaluation, look=None, **origin):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        page = write_report(folder, evaluation, dict(ORIGIN, **origin), look)
    return page, data_of(page)


def test_figures_are_those_of_the_evaluation(tmp_path):
    evaluation = make_evaluation(threshold=0.3, unknown=0.1)
    page, data = write(tmp_path / 'new' / 'folder', evaluation)
    _, scores, ranking, targets, _, names, *_ = evaluation
    metrics = multilabel_metrics(scores.astype(np.float32), targets, 0.3)
    shown = {figure['name']: figure for figure in data['figures']}
    assert [shown[name]['value'] for name in ('mAP', 'CF1', 'OF1')] == [
        f'{metrics[name]:.1f}' for name in ('mAP', 'CF1', 'OF1')
    ]
    rows = class_report(scores, targets, names, 0.3, ranking)
    best = class_report(scores, targets, names, [row['best_threshold'] for row in rows])
    for one, row, at_best in zip(data['classes'], rows, best, strict=True):
        assert [one[key] for key in ('name', 'images', 'threshold')] == [row['name'], row['positives'], 0.3]
        assert [one[key] for key in ('AP', 'F1', 'best_F1', 'best_threshold')] == pytest.approx(
            [row['AP'], row['F1'], at_best['F1'], row['best_threshold']], abs=0.01
        )
    assert sum(one['unknown'] for one in data['classes']) == (targets < 0).sum()
    assert f'{(targets < 0).sum()} labels are unknown.' in ' '.join(data['notes'])
    assert ['Threshold', '0.3'] in data['facts'] and ['Model', 'gkgnet_224'] in data['facts']
    assert page.read_text().startswith('<!DOCTYPE html>') and '<title>gkgnet_224 on val</title>' in page.read_text()


def test_galleries_are_of_the_worst(tmp_path):
    evaluation = make_evaluation(unknown=0.1)
    _, data = write(tmp_path, evaluation)
    scores, targets = evaluation.scores, evaluation.targets
    for kind, wrong, order in (
        ('false_positives', (scores >= 0.5) & (targets == 0), -scores),
        ('misses', (scores < 0.5) & (targets == 1), scores),
    ):
        gallery = data['galleries'][kind]
        assert gallery['totals'] == wrong.sum(axis=0).tolist()
        for label, items in gallery['classes'].items():
            rows = np.flatnonzero(wrong[:, int(label)])
            worst = rows[np.argsort(order[rows, int(label)])][: len(items)]
            assert [data['images'][image]['file'] for image, _ in items] == [evaluation.files[row] for row in worst]
        image, label = gallery['overall'][0]
        row = evaluation.files.index(data['images'][image]['file'])
        assert order[row, label] == np.where(wrong, order, np.inf).min()
        given = int(scores[row, label] >= 0.5)
        entry = [label, round(float(scores[row, label]), 4), int(targets[row, label]), given]
        assert entry in data['images'][image]['labels']
    files = [image['file'] for image in data['images']]
    assert len(files) == len(set(files)) and not any(image.get('src') for image in data['images'])
    assert data['pictures'] == 'There are no pictures, as the images are not at hand: they are named only.'


def test_hostile_names_end_nothing(tmp_path):
    files = [f'{i}{name}' for i, name in enumerate(HOSTILE * 10)]
    evaluation = make_evaluation(len(files), names=HOSTILE, files=files)
    page, data = write(tmp_path, evaluation, model=HOSTILE[0], split=HOSTILE[1])
    text = page.read_text()
    assert text.count('</script>') == 2 and 'alert(1)</script>' not in text and '<img' not in text
    assert [one['name'] for one in data['classes']] == HOSTILE
    assert {image['file'] for image in data['images']} <= set(files)
    assert links_of(page) == ['https://arxiv.org/abs/2308.14378']


def test_names_that_are_not_utf8(tmp_path):
    files = [f'{i}\udcff.png' for i in range(20)]
    _, data = write(tmp_path, make_evaluation(20, files=files))
    assert data['images'][0]['file'] in files


@pytest.mark.parametrize('images, classes', [(1, 1), (1, 3), (30, 1), (40, 500)])
@pytest.mark.parametrize('target', [None, 0, 1, -1])
def test_any_number_of_classes_and_images(images, classes, target, tmp_path):
    evaluation = make_evaluation(images, classes)
    if target is not None:
        evaluation = evaluation._replace(targets=np.full_like(evaluation.targets, target))
    _, data = write(tmp_path, evaluation)
    assert len(data['classes']) == classes and data['images_total'] == images
    present = (evaluation.targets > 0).any(axis=0)
    ap = 100 * average_precision(evaluation.ranking, evaluation.targets)
    expected = [pytest.approx(value, abs=0.01) if has else None for value, has in zip(ap, present)]
    assert [one['AP'] for one in data['classes']] == expected
    absent = (~present).sum()
    assert bool(absent) == any('no image with the label' in note for note in data['notes'])


def test_size_has_a_bound(tmp_path, monkeypatch):
    """Of many images as of few, those that have no room are named without a picture, which a sentence says."""
    monkeypatch.setattr(thumbnails, 'MOST_BYTES', 150_000)
    evaluation = with_images(make_evaluation(800, 80), (320, 240))
    page, data = write(tmp_path, evaluation)
    pictured = sum(bool(image['src']) for image in data['images'])
    assert sum(len(image['src'] or '') for image in data['images']) <= 150_000 < page.stat().st_size < 1_500_000
    assert 20 < pictured < len(data['images'])
    rest = len(data['images']) - pictured
    assert (
        data['pictures'] == f'Pictures of {pictured} of 800 images are in this page; {rest} more are named without one.'
    )


def test_pictures_and_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, 'MOST_LOOKED', 7)
    evaluation = with_images(make_evaluation(60))
    evaluation = evaluation._replace(read_image=lambda row, read=evaluation.read_image: row % 5 and read(row) or None)
    asked = []

    def look(image, labels):
        asked.append(image.size)
        return {label: [[1, 2, 0, 0, 500, 1000]] for label in labels}

    _, data = write(tmp_path, evaluation, look)
    gone = [image for image in data['images'] if not image.get('src')]
    assert gone and all(int(image['file'][:3]) % 5 == 0 for image in gone) and len(asked) <= 7
    assert all(image['size'] == [40, 30] for image in data['images'] if image.get('src'))
    looked = {int(key.split(':')[0]) for key in data['looks']}
    assert len(looked) == len(asked) and max(looked) < 7
    image, label = next(item for item in data['galleries']['false_positives']['overall'] if item[0] in looked)
    assert data['looks'][f'{image}:{label}'] == [[1, 2, 0, 0, 500, 1000]]
    assert data['pictures'].endswith(f'Where the label nodes looked is shown for {len(asked)} of them.')
    _, data = write(tmp_path, evaluation._replace(read_image=lambda row: None), look)
    assert 'none of the images was found' in data['pictures']


def test_labels_of_an_image(tmp_path, monkeypatch):
    """Those of a mistake come first, then those that it has; how many are left out is said."""
    monkeypatch.setattr(pictures, 'MOST_LABELS', 3)
    evaluation = make_evaluation(1, 6)
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.2, 0.1]])
    targets = np.array([[1, 0, 1, 0, 1, 0]], np.int8)
    evaluation = evaluation._replace(scores=scores, ranking=scores, targets=targets)
    thresholds = np.full(6, 0.5)
    shown = pictures._labels(evaluation, 0, [3], thresholds)
    assert shown == dict(labels=[[0, 0.9, 1, 1], [2, 0.7, 1, 1], [3, 0.6, 0, 1]], more=2)
    monkeypatch.setattr(pictures, 'MOST_LABELS', 9)
    shown = pictures._labels(evaluation, 0, [5], thresholds)
    assert [label for label, *_ in shown['labels']] == [0, 1, 2, 3, 4, 5] and shown['more'] == 0


def test_without_cleanlab(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cleanlab.filter', None)
    _, data = write(tmp_path, make_evaluation())
    assert 'label_errors' not in data['galleries'] and "pip install 'gkgnet-timm[report]'" in data['no_label_errors']


@pytest.mark.parametrize(
    'targets, expected',
    [
        ([[1, 0], [0, 0]], ['1 image has no label', '1 class has', 'precision and recall count as 0 there']),
        (
            [[1, 0], [0, -1]],
            ['1 image has no known label', '1 label is unknown. It does not count', 'it counts as absent'],
        ),
        (
            [[1, -1], [-1, 1]],
            ['1.00 labels an image.', '2 labels are unknown. They do not count', 'they count as absent'],
        ),
    ],
)
def test_notes_on_the_data(targets, expected):
    notes = ' '.join(describe_data(make_evaluation(2, 2)._replace(targets=np.array(targets, np.int8))))
    assert all(text in notes for text in expected), notes


def test_the_best_thresholds_of_classes_may_lower_of1(tmp_path):
    """They are those of single classes: the sentence does not call them the best ones of the figure."""
    _, data = write(tmp_path, make_evaluation())
    (sentence,) = [figure['sentence'] for figure in data['figures'] if figure['name'] == 'OF1']
    assert 'threshold of best F1 of each class' in sentence and 'may lower' in sentence


def test_warning_comes_first(tmp_path):
    _, data = write(tmp_path, make_evaluation(), warning='these are the images of training.')
    assert data['notes'][0] == 'Careful: these are the images of training.'


def test_label_that_misleads(tmp_path):
    targets = np.zeros((100, 4), np.int8)
    targets[:20, 0] = 1
    targets[20:40, 1] = 1
    targets[40:, 2] = 1
    scores = np.where(targets, 0.9, 0.1)
    scores[:15, 1] = 0.8  # 0 is taken for 1, too
    evaluation = make_evaluation(100, 4)._replace(scores=scores, ranking=scores, targets=targets)
    _, data = write(tmp_path, evaluation)
    assert data['confusion']['pairs'][0] == [0, 1, 15, 20, 75.0, 18.8]
    shown = data['confusion']['classes']
    assert data['confusion']['matrix'][1 + shown.index(0)][shown.index(1)] == 75.0


def test_image_in_the_page_is_upright(tmp_path):
    evaluation = make_evaluation(30)._replace(read_image=lambda row: Image.new('RGB', (20, 60)))
    _, data = write(tmp_path, evaluation)
    assert data['images'][0]['size'] == [20, 60]
