"""Labels that are probably wrong."""

import sys

import numpy as np
import pytest
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

from gkgnet_timm.evaluation import curves
from gkgnet_timm.report.label_errors import find_label_errors


def test_wrong_labels_are_found(monkeypatch):
    rng = np.random.default_rng(0)
    truth = (rng.random((600, 3)) < 0.3).astype(np.int8)
    scores = np.clip(0.15 + 0.7 * truth + 0.08 * rng.standard_normal(truth.shape), 0.01, 0.99)
    targets = truth.copy()
    targets[:10, 1] = 1 - targets[:10, 1]
    targets[20:30, 2] = -1
    found = find_label_errors(scores, targets)
    given = [np.flatnonzero(row).tolist() for row in truth]
    assert np.array_equal(find_label_errors(scores, truth), find_multilabel_issues_per_class(given, scores, n_jobs=1))
    assert found[:10, 1].all() and not found[10:, 1].any() and not found[:, 0].any() and not found[20:30].any()
    monkeypatch.setattr(curves, 'MOST_CLASSES', 1)  # the first has most images, the second has the errors
    targets[:, 0] = 1
    assert not find_label_errors(scores, targets).any()


@pytest.mark.parametrize('targets', [[[1]], [[0]], [[-1]], [[1], [0]], [[1], [1]], [[-1], [1]], [[1], [0], [-1]]])
def test_few_images(targets):
    targets = np.array(targets, np.int8)
    assert not find_label_errors(np.full(targets.shape, 0.5), targets).any()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cleanlab.filter', None)
    assert find_label_errors(np.full((2, 1), 0.5), np.array([[1], [0]])) is None
