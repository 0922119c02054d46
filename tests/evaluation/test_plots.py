"""What the plots of an evaluation say, read from the figures before they are pixels."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex

from gkgnet_timm.evaluation import plots
from gkgnet_timm.evaluation.curves import confusion_counts, most_confused, precision_at
from gkgnet_timm.evaluation.figures import COLOURS, class_styles, create_figure, short_name
from gkgnet_timm.metrics import average_precision


def make_rows(classes, images=60):
    """Scores (N, L) and targets (N, L), of which class 1, if there are several, has no positives."""
    rng = np.random.default_rng(classes)
    targets = (rng.random((images, classes)) < rng.uniform(0.1, 0.6, classes)).astype(int)
    targets[0] = 1
    if classes > 1:
        targets[:, 1] = 0
    return np.clip(0.5 * targets * rng.random(classes) + 0.5 * rng.random((images, classes)), 0.01, 0.99), targets


def draw(how, classes, names=None, *arguments):
    """The axes on which one of the plots is drawn."""
    names = names or [f'class {i}' for i in range(classes)]
    axes = create_figure(figsize=(7, 6)).subplots()
    scores, targets = make_rows(classes)
    if how is plots._draw_cooccurrence:
        how(axes, scores, targets, names, *arguments)
    else:
        rows = (scores, targets) if how is plots._draw_precision_recall else (targets,)
        how(axes, *rows, names, 100 * average_precision(scores, targets))
    return axes


def labels_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def luminance(colour):
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_styles_differ():
    assert len(set(class_styles(24))) == 24
    assert all(luminance(colour) < 180 for colour in COLOURS)  # on white
    assert 'k' not in COLOURS and '#000000' not in COLOURS


@pytest.mark.parametrize('classes', [2, 6, 10])
def test_classes_are_in_order_of_ap_and_unlike_the_pooled_curve(classes):
    axes = draw(plots._draw_precision_recall, classes)
    ap = 100 * average_precision(*make_rows(classes))
    order = [i for i in np.argsort(-ap) if i != 1]
    shown = [label.replace('\N{FIGURE SPACE}', ' ') for label in labels_of(axes)]
    expected = [f'{ap[i]:5.1f}  class {i}' for i in order]
    scores, targets = make_rows(classes)
    pooled = 100 * average_precision(scores.reshape(-1, 1), targets.reshape(-1, 1))[0]
    if classes > 2:
        expected += [f'{ap[order].mean():5.1f}  mean of {classes - 1} classes', f'{pooled:5.1f}  all classes pooled']
    assert shown == expected
    looks = [(to_hex(line.get_color()), str(line.get_linestyle()), line.get_linewidth()) for line in axes.lines]
    assert len(set(looks)) == len(shown)
    assert [look[0] for look in looks].count('#000000') == 2 * (classes > 2)


@pytest.mark.parametrize('classes', [20, 80, 500])
def test_of_many_classes_the_best_and_worst_have_curves_and_the_others_bands(classes):
    axes = draw(plots._draw_precision_recall, classes)
    scores, targets = make_rows(classes)
    ap = 100 * average_precision(scores, targets)
    order = [i for i in np.argsort(-ap, kind='stable') if i != 1]
    shown = [label.replace('\N{FIGURE SPACE}', ' ') for label in labels_of(axes)]
    ends = [*order[: plots.ENDS], *order[-plots.ENDS :]]
    assert shown[:-2] == ['80 % of the classes', '50 % of the classes', *(f'{ap[i]:5.1f}  class {i}' for i in ends)]
    assert axes.get_legend().get_title().get_text() == f'AP in %\n3 best, 3 worst of {classes - 1}'
    curves = [precision_at(scores[:, i], targets[:, i], plots.RECALLS)[0] for i in range(classes) if i != 1]
    for band, percentiles in zip(axes.collections, (plots.WIDE, plots.NARROW), strict=True):
        extents = band.get_paths()[0].get_extents()
        low, high = np.percentile(curves, percentiles, axis=0)
        assert (extents.y0, extents.y1) == pytest.approx((low.min(), high.max()))


def test_of_many_bars_the_best_and_worst_are_drawn():
    axes = draw(plots._draw_ap, plots.MAX_BARS + 30)
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    ap = 100 * average_precision(*make_rows(plots.MAX_BARS + 30))
    shown = [ap[int(tick.split()[1])] for tick in ticks]
    half, ranked = plots.MAX_BARS // 2, sorted(ap, reverse=True)
    assert len(shown) == plots.MAX_BARS and shown == [*ranked[:half], *ranked[-half:]]
    assert ticks[-1] == 'class 1 (0)  –' and [text.get_text() for text in axes.texts] == ['30 classes between']


def test_chance_is_marked_at_every_bar():
    axes = draw(plots._draw_ap, 6)
    scores, targets = make_rows(6)
    order = [i for i in np.argsort(-average_precision(scores, targets)) if i != 1] + [1]
    marks = [path.vertices for path in axes.collections[0].get_paths()]
    assert [mark[:, 0].tolist() for mark in marks[:-1]] == [[100 * targets[:, i].mean()] * 2 for i in order[:-1]]
    assert np.isnan(marks[-1][:, 0]).all()
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert [tick.partition(' (')[0] for tick in ticks] == [f'class {i}' for i in order]
    assert ticks[-1] == 'class 1 (0)  –' and 'chance' in labels_of(axes)


@pytest.mark.parametrize('classes', [1, 5, 80])
def test_scales_are_beside_the_matrix(classes):
    axes = draw(plots._draw_cooccurrence, classes, None, np.array(0.3))
    axes.figure.canvas.draw()
    matrix, boxes = axes.get_window_extent(), [scale.get_window_extent() for scale in axes.child_axes]
    assert len(boxes) == 2 and all(matrix.y0 - 1 <= box.y0 < box.y1 <= matrix.y1 + 1 for box in boxes)
    assert boxes[1].y1 < boxes[0].y0  # one below the other
    assert [(box.x0 - matrix.x1) / axes.figure.dpi for box in boxes] == pytest.approx([0.15] * 2)


def test_matrix_has_the_classes_that_are_confused_most():
    """A label that misleads to another is in it however rare it is; the title says that it is a part."""
    targets = np.zeros((400, 80), int)
    targets[np.arange(400), np.arange(400) % 80] = 1
    scores = np.where(targets, 0.9, 0.1)
    scores[targets[:, 70] == 1, 75] = 0.8
    axes = create_figure(figsize=(7, 6)).subplots()
    plots._draw_cooccurrence(axes, scores, targets, [f'class {i}' for i in range(80)], np.array(0.5))
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert len(columns) == plots.MAX_CELLS and {'class 70', 'class 75'} <= set(columns)
    title = axes.get_title()
    assert title.endswith('the 40 of 80 classes that are confused most') and 'grey: no such image' in title


def test_confused_most_without_any_image():
    counts, support = confusion_counts(np.zeros((3, 60), bool), np.zeros((3, 60), int))
    assert most_confused(counts, support, 40).tolist() == list(range(40))


def test_names_are_cut_in_the_middle():
    long = ['Straßenbahn der Wiener Linien, Baureihe A', 'Straßenbahn der Wiener Linien, Baureihe B']
    assert [short_name(name) for name in long] == ['Straßenbahn de…n, Baureihe A', 'Straßenbahn de…n, Baureihe B']
    assert len(short_name(long[0])) == 28 and short_name('a' * 28) == 'a' * 28
    assert short_name('a \n$b$') == r'a \$b\$'


@pytest.mark.parametrize('names', [['猫'], ['猫', 'ไก่'], ['é'] + ['ö' * 90] * 20])
def test_any_names_and_few_classes(names, tmp_path):
    scores, targets = make_rows(len(names))
    targets[:, -1] = -1  # nothing is known of the last one
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        plots.draw_plots(tmp_path, scores, targets, names)
    assert len(list(tmp_path.iterdir())) == 3
