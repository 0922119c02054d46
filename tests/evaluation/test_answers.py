"""The order of outputs by the answers of a model."""

import numpy as np
import pytest

from gkgnet_timm.evaluation import answers
from gkgnet_timm.evaluation.answers import find_order, find_permutation, precision_matrix
from gkgnet_timm.metrics import average_precision

QUALITIES = ['good', 'weak', 'random', 'common', 'rounded']
ORDERS = {
    'swap': lambda count, rng: np.array([1, 0, *range(2, count)]),
    'permutation': lambda count, rng: rng.permutation(count),
    'shift': lambda count, rng: np.roll(np.arange(count), 1),
}


def draw(seed, quality, images=None, classes=None):
    """Scores and targets of correlated classes, some of them unknown or without images."""
    rng = np.random.default_rng(seed)
    images = images or int(np.exp(rng.uniform(np.log(6), np.log(2000))))
    classes = classes or int(rng.integers(2, 40))
    features = rng.normal(size=(images, 6))
    evidence = features @ rng.normal(size=(6, classes)) / 3 + rng.normal(size=(images, classes))
    share = np.clip(rng.lognormal(-2, 0.8, classes), 2 / images, 0.6)
    targets = (evidence > np.quantile(evidence, 1 - share, axis=0).diagonal()).astype(np.int8)
    if seed % 3 == 0:
        targets[rng.random(targets.shape) < 0.1] = -1
    noise = rng.normal(size=evidence.shape)
    scores = dict(
        good=evidence + 0.2 * noise,
        weak=evidence + rng.uniform(1, 8) * noise,
        random=noise,
        common=rng.normal(size=(images, 1)) + 0.1 * noise,
        rounded=np.round(evidence + noise),
    )[quality]
    return scores.astype(np.float32), targets


@pytest.mark.parametrize('quality', QUALITIES)
def test_precisions_are_those_of_the_metrics(quality):
    for seed in range(4):
        scores, targets = draw(seed, quality, 90, 7)
        targets[:, 6] = np.minimum(targets[:, 6], 0)
        scores[:5, 1], scores[5:9, 1] = np.inf, -np.inf
        expected = [average_precision(np.repeat(score[:, None], 7, axis=1), targets) for score in scores.T]
        np.testing.assert_allclose(precision_matrix(scores, targets), expected, rtol=0, atol=1e-12)


def test_order_is_exact_if_certain():
    rng = np.random.default_rng(0)
    for seed in range(20):
        scores, targets = draw(seed, 'good', 2000, 12)
        order = rng.permutation(12)
        found = find_order(scores[:, order], targets)
        assert found.is_certain.all() and np.array_equal(order[found.outputs], np.arange(12))
        assert found.lead.min() >= answers.LEAD and (found.outputs != found.rivals).all()
        np.testing.assert_allclose(found.ap[0], 100 * average_precision(scores, targets))


def test_order_is_open():
    """Of a class without images, of outputs that are as good, and of one that is best of two."""
    rng = np.random.default_rng(0)
    targets = (rng.random((2000, 6)) < 0.2).astype(np.int8)
    scores = rng.normal(size=targets.shape) + 4 * targets
    targets[:, 0] = 0
    scores[:, 1] = scores[:, 2]
    scores[:, 4], targets[:, 4] = 0, targets[:, 3]
    found = find_order(scores, targets)
    assert found.is_certain.tolist() == [False] * 5 + [True]
    assert found.is_shared.tolist() == [False] * 3 + [True] * 2 + [False]
    assert found.positives[0] == 0 and found.lead[2] == 0 and found.outputs[3] == found.outputs[4] == 3
    with pytest.raises(ValueError, match='single class'):
        find_order(scores[:, :1], targets[:, :1])


@pytest.mark.parametrize('quality', ['random', 'common', 'weak'])
def test_few_images_are_no_proof(quality):
    for seed in range(40):
        found = find_order(*draw(seed, quality, 12, 5))
        assert not found.is_certain.all()


def test_one_image_of_a_class_is_no_proof():
    scores = np.random.default_rng(0).normal(size=(5000, 3))
    targets = np.zeros((5000, 3), np.int8)
    targets[[0, 1, 2], [0, 1, 2]] = 1
    assert not find_order(scores + 99 * targets, targets).is_certain.any()


@pytest.mark.parametrize('quality', QUALITIES)
def test_labels_in_order_are_not_called_permuted(quality):
    assert not [seed for seed in range(40) if find_permutation(*draw(seed, quality)) is not None]


@pytest.mark.parametrize('kind', ORDERS)
def test_permuted_labels_are_noticed(kind):
    rng = np.random.default_rng(0)
    for seed in range(20):
        classes = 3 + 2 * seed
        scores, targets = draw(seed, 'good', 1500, classes)
        order = ORDERS[kind](classes, rng)
        found = find_permutation(scores[:, order], targets)
        assert found is not None and np.array_equal(order[found], np.arange(classes)), seed


def test_of_many_images_some_are_looked_at(monkeypatch):
    scores, targets = draw(1, 'good', 4000, 8)
    seen = []
    matrix = answers.precision_matrix
    monkeypatch.setattr(answers, 'precision_matrix', lambda *rows: seen.append(len(rows[0])) or matrix(*rows))
    assert np.array_equal(find_permutation(np.roll(scores, 1, axis=1), targets), np.roll(np.arange(8), -1))
    monkeypatch.setattr(answers, 'MOST_WORK', 10000)
    assert np.array_equal(find_permutation(np.roll(scores, 1, axis=1), targets), np.roll(np.arange(8), -1))
    assert seen[0] == 2000 and 100 < seen[1] < 1000


def test_too_little_to_say():
    scores, targets = draw(1, 'good', 6, 3)
    for rows, columns in ((1, 3), (2, 3), (6, 1)):
        assert find_permutation(scores[:rows, :columns], targets[:rows, :columns]) is None
    assert find_permutation(scores, np.zeros_like(targets)) is None
    assert find_permutation(scores, np.ones_like(targets)) is None


def test_absent_classes_keep_their_output_unless_it_is_taken():
    present = np.array([True, False, True, False, False])
    values = np.array([[0.1, 0.2], [0.9, 0.1], [0.2, 0.3], [0.8, 0.95], [0.0, 0.0]])
    assert answers._assign(values, present).tolist() == [1, 0, 3, 2, 4]
