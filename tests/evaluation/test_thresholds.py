"""Thresholds: none is better on the split they are chosen on, and the file keeps them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gkgnet_timm.evaluation.thresholds import calibrate, save_thresholds
from gkgnet_timm.metrics import multilabel_metrics
from gkgnet_timm.weights.thresholds import load_threshold

ONE, HALF = np.float32(1), np.float32(0.5)
BELOW_ONE, BELOW_HALF, ABOVE_HALF = np.nextafter(ONE, -ONE), np.nextafter(HALF, -ONE), np.nextafter(HALF, ONE)
TINY = np.nextafter(np.float32(0), ONE)
NAMES = ['cat', 'dog', 'emu']


def f1(scores, positive, threshold):
    predicted = scores >= scores.dtype.type(threshold)
    return 2 * (predicted & positive).sum() / max(1, predicted.sum() + positive.sum())


def assert_best(scores, targets):
    per_class, overall = calibrate(scores, targets)
    multilabel_metrics(scores, targets, per_class)
    multilabel_metrics(scores, targets, overall)
    assert per_class.shape == scores.shape[1:] and type(overall) is float
    columns = [*zip(scores.T, targets.T, per_class), (scores.ravel(), targets.ravel(), overall)]
    for column, target, threshold in columns:
        positive = target > 0
        cuts = column[column > 0]  # no threshold above 0 lets a score of 0 pass
        best = max((f1(column, positive, cut) for cut in cuts), default=0)
        assert 0 < threshold < 1 and f1(column, positive, threshold) == best
        assert best > 0 or threshold == 0.5


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.data())
def test_brute_force(data):
    values = [0, TINY, 1e-9, 1e-7, 0.3, BELOW_HALF, HALF, ABOVE_HALF, 0.7, 1 - 1e-6, np.nextafter(BELOW_ONE, 0)]
    values = [float(np.float32(value)) for value in (*values, BELOW_ONE, 1)]
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 3)))
    elements = st.one_of(st.sampled_from(values), st.floats(0, 1, width=32))
    scores = data.draw(hnp.arrays(np.float32, shape, elements=elements))
    targets = data.draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))
    assert_best(scores, targets)
    assert_best(scores.astype(np.float64), targets)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_brute_force_of_many_images(dtype):
    rng = np.random.default_rng(0)
    targets = rng.choice([-1, 0, 1], (300, 5), p=[0.1, 0.6, 0.3]).astype(np.int8)
    targets[:, 1], targets[:, 2] = 1, 0
    scores = (rng.random(targets.shape) + 0.5 * (targets > 0)).clip(0, 1).astype(dtype)
    scores[:, 3] = scores[:, 3].round(1)  # ties, also of 0 and 1
    assert_best(scores, targets)


def test_middle_of_the_gap():
    scores, targets = np.array([[0.9, 0.2], [0.8, 0.4], [0.2, 0.3]]), np.array([[1, 1], [1, 0], [0, -1]])
    per_class, overall = calibrate(scores, targets)
    assert per_class == pytest.approx([0.5, 0.1])  # 0.2 is the lowest score
    assert overall == pytest.approx(0.6)
    assert calibrate([[0.5], [0.9], [0.7]], [[1], [0], [0]])[0] == 0.25
    assert calibrate([[0.0], [0.4]], [[1], [0]]) == (0.5, 0.5)  # the positive is out of reach
    scores = np.array([[ONE], [BELOW_ONE], [BELOW_ONE]])
    threshold = calibrate(scores, np.array([[1], [0], [0]]))[0]
    assert threshold < 1 and (scores >= threshold.astype(np.float32)).sum() == 1


def test_bad_input_of_calibrate():
    with pytest.raises(ValueError, match='nan, first in row 0'):
        calibrate([[np.nan]], [[1]])
    with pytest.raises(ValueError, match=r'got \(1, 1\) and \(1, 2\)'):
        calibrate([[0.5]], [[1, 0]])


def test_file(tmp_path):
    thresholds = np.array([TINY, 1 / 3, np.nextafter(1, 0)], np.float64)
    names = ['café', 'a "b"', '猫\n']
    save_thresholds(tmp_path / 'a.json', names, thresholds, 0.25)
    assert json.loads((tmp_path / 'a.json').read_text())['threshold'] == 0.25
    for path in (tmp_path / 'a.json', str(tmp_path / 'a.json')):
        assert (load_threshold(path, names) == thresholds).all()
        assert (load_threshold(path, names[::-1]) == thresholds[::-1]).all()
    (tmp_path / 'b.json').write_text(json.dumps(dict(classes=dict(zip(names[::-1], thresholds[::-1].tolist())))))
    assert (load_threshold(tmp_path / 'b.json', names) == thresholds).all()
    assert load_threshold('0.3', names) == load_threshold(0.3, names) == 0.3
    (tmp_path / 'c.json').write_bytes(b'\xef\xbb\xbf' + (tmp_path / 'a.json').read_bytes())  # as Windows saves it
    assert (load_threshold(tmp_path / 'c.json', names) == thresholds).all()


@pytest.mark.parametrize('value', ['0', '1', '1.5', '-1', 'nan', 'inf', 2, 0.0, '2\n'])
def test_number_out_of_range(value):
    with pytest.raises(ValueError, match='must be a score between 0 and 1 or a calibration file, got') as error:
        load_threshold(value, NAMES)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'not a calibration file'),
        (b'\xff\xfe\x00', 'not a calibration file'),
        (b'[1, 2]', 'not a calibration file'),
        (b'0.5', 'not a calibration file'),
        (b'[' * 100_000, 'not a calibration file'),
        (b'{"threshold": 0.5}', 'not a calibration file'),
        (b'{"classes": [0.1, 0.2, 0.3]}', 'not a calibration file'),
        (b'{"classes": {"cat": "high", "dog": 0.1, "emu": 0.1}}', 'not a calibration file'),
        (b'{"classes": {"cat": null, "dog": 0.1, "emu": 0.1}}', 'not a calibration file'),
        (b'{"classes": {"cat": 1%s, "dog": 0.1, "emu": 0.1}}' % (b'0' * 400), 'not a calibration file'),
        (b'{"classes": {}}', "other classes: 0 where the model has 3, 'cat' is only in one"),
        (b'{"classes": {"cat": 0.1, "dog": 0.1, "e\\nu": 0.1}}', r"other classes: 3 .* 'e\\nu' is only in one"),
        (b'{"classes": {"cat": 0.1, "dog": 0, "emu": 0.1}}', "0.0 of 'dog', expected a number between 0 and 1"),
        (b'{"classes": {"cat": 0.1, "dog": NaN, "emu": 0.1}}', "threshold nan of 'dog', expected"),
        (b'{"classes": {"cat": 0.1, "dog": true, "emu": 0.1}}', "threshold 1.0 of 'dog', expected"),
    ],
)
def test_bad_file(tmp_path, content, message):
    path = tmp_path / 'bad\n.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_threshold(str(path), NAMES)
    assert '\n' not in str(error.value) and repr(str(path)) in str(error.value)


@pytest.mark.parametrize('name', ['nowhere.json', ''])
def test_no_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match='neither a number nor a file') as error:
        load_threshold(str(tmp_path / name), NAMES)
    assert '\n' not in str(error.value)
