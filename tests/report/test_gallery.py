"""Which mistakes a report shows."""

import numpy as np
import pytest

from gkgnet_timm.report import gallery
from gkgnet_timm.report.gallery import in_turn, pick


def test_the_worst_come_first_and_an_image_once_over_all_classes():
    badness = np.array([[0.1, 0.9], [0.8, 0.7], [0.5, 0.2], [0.6, 0.3]])
    chosen = np.array([[1, 1], [1, 1], [0, 1], [0, 0]], bool)
    overall, of_class, images, totals = pick(chosen, badness)
    assert overall == [(0, 1), (1, 0), (2, 1)] and images == 3 and totals.tolist() == [2, 3]
    assert of_class == {0: [(1, 0), (0, 0)], 1: [(0, 1), (1, 1), (2, 1)]}


@pytest.mark.parametrize('classes', [1, 20, 80, 500, 3000])
def test_number_of_items_has_a_bound(classes):
    shown = pick(np.ones((50, classes), bool), np.random.default_rng(0).random((50, classes)))
    sizes = {len(items) for items in shown.of_class.values()}
    assert len(shown.overall) == gallery.OF_ALL and len(sizes) == 1 and min(sizes) >= 1
    assert sum(map(len, shown.of_class.values())) <= gallery.OF_CLASSES
    assert shown.images == 50 and shown.totals.tolist() == [50] * classes


def test_classes_with_most_items_have_galleries():
    chosen = np.zeros((2, gallery.OF_CLASSES + 5), bool)
    chosen[0] = True
    chosen[1, -5:] = True
    shown = pick(chosen, np.zeros(chosen.shape))
    assert len(shown.of_class) == gallery.OF_CLASSES and set(range(gallery.OF_CLASSES, chosen.shape[1])) <= set(
        shown.of_class
    )


def test_nothing_to_show():
    shown = pick(np.zeros((3, 2), bool), np.zeros((3, 2)))
    assert shown.overall == [] and shown.of_class == {} and shown.images == 0 and in_turn([shown]) == []


def test_items_in_the_order_of_their_importance():
    badness = np.array([[0.9, 0.1], [0.8, 0.3], [0.1, 0.2]])
    one = pick(np.array([[1, 0], [1, 0], [0, 0]], bool), badness)
    other = pick(np.array([[0, 0], [0, 1], [0, 1]], bool), badness)
    assert in_turn([one, other]) == [(0, 0), (1, 0), (1, 1), (2, 1)]
