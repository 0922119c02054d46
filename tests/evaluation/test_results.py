"""What is printed of an evaluation."""

import json

import numpy as np
import pytest

from gkgnet_timm.evaluation.class_report import class_report
from gkgnet_timm.evaluation.results import _width, class_table, in_decimals, write_results


def report(classes, absent=(), names=None):
    """A report of classes, the AP of which falls from the first to the last; some have no positives."""
    targets = np.zeros((classes + 1, classes), int)
    targets[0] = 1
    targets[:, list(absent)] = 0
    scores = np.full(targets.shape, 0.1)
    scores[0] = 0.5
    for i in range(classes):
        scores[1 : i + 1, i] = 0.9
    return class_report(scores, targets, names or [f'class {i}' for i in range(classes)])


def test_few_classes_are_all_in_the_table():
    lines = class_table(report(4, absent=[1])).splitlines()
    assert lines[0].split() == ['class', 'images', 'AP', 'precision', 'recall', 'F1']
    rows = [line.rsplit(None, 5) for line in lines[1:]]
    assert [row[0] for row in rows] == ['class 0', 'class 2', 'class 3', 'class 1']
    assert rows[1][1:] == ['1', '33.33', '33.33', '100.00', '50.00'] and rows[3][1:] == ['0', '-', '-', '-', '-']


@pytest.mark.parametrize('classes, absent', [(21, ()), (30, (4, 29)), (500, (3,))])
def test_of_many_classes_the_best_and_the_worst_are(classes, absent):
    lines = class_table(report(classes, absent)).splitlines()
    present = [f'class {i}' for i in range(classes) if i not in absent]
    names = [line.rsplit(None, 5)[0] for line in (*lines[1:11], *lines[12:22])]
    assert names == present[:10] + present[-10:] and lines[11] == f'... {len(present) - 20} more ...'
    assert lines[22:] == ([f'Not in the table: {len(absent)} classes without any image.'] if absent else [])


def test_many_classes_of_which_few_have_images():
    lines = class_table(report(25, absent=range(5, 25))).splitlines()
    assert len(lines) == 7 and lines[-1].startswith('Not in the table: 20 classes')
    assert len(class_table(report(1, absent=[0])).splitlines()) == 2


def test_table_fits_into_80_columns_whatever_the_names():
    names = ['猫', 'überlange ' * 20, 'e\u0301te', '犬' * 40, 'a\nb']
    lines = class_table(report(5, names=names)).splitlines()
    assert len(lines) == 6 and {_width(line) for line in lines} == {_width(lines[0])} and _width(lines[0]) < 80
    assert max(_width(line) for line in class_table(report(500)).splitlines()) <= 80


@pytest.mark.parametrize('form', ['json', 'csv'])
def test_figures_have_four_decimals(form, tmp_path):
    result = in_decimals(dict(mAP=12.345678, images=3, checkpoint='a', chance=7.0))
    assert result == dict(mAP=12.3457, images=3, checkpoint='a', chance=7.0) and type(result['images']) is int
    write_results(tmp_path / f'r.{form}', result)
    text = (tmp_path / f'r.{form}').read_text()
    assert '12.3457' in text and '12.34567' not in text
    if form == 'json':
        assert json.loads(text) == result
