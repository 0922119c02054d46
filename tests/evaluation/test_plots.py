"""What the plots of an evaluation say, read from the figures before they are pixels."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex

from gkgnet_timm.evaluation import plots
from gkgnet_timm.evaluation.curves import precision_at
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
    how(axes, *make_rows(classes), names, *arguments)
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


@pytest.mark.parametrize('classes', [2, 6, 20])
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


@pytest.mark.parametrize('classes', [22, 80, 100])
def test_many_curves_are_coloured_by_ap(classes):
    axes = draw(plots._draw_precision_recall, classes)
    assert len(axes.lines) == classes - 1 + 2 and len(labels_of(axes)) == 2 * plots.ENDS + 2
    figures = [float(label.split()[0]) for label in labels_of(axes)[:-2]]
    assert figures == sorted(figures, reverse=True)
    assert axes.child_axes[0].get_ylabel() == 'AP of the class in %'


def test_more_classes_than_curves_are_bands():
    axes = draw(plots._draw_precision_recall, 130)
    assert len(axes.lines) == 3 and len(axes.collections) == 2
    assert labels_of(axes)[:3] == ['90 % of the classes', '50 % of the classes', 'median class']
    scores, targets = make_rows(130)
    recalls = np.linspace(0, 1, 201)
    curves = [precision_at(scores[:, i], targets[:, i], recalls) for i in range(130) if i != 1]
    wide, narrow = (path.get_paths()[0].get_extents() for path in axes.collections)
    assert wide.y0 == pytest.approx(np.percentile(curves, 5, axis=0).min())
    assert narrow.y0 == pytest.approx(np.percentile(curves, 25, axis=0).min())
    assert axes.lines[0].get_ydata() == pytest.approx(np.median(curves, axis=0))


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


@pytest.mark.parametrize('classes', [1, 5, 100])
def test_scales_are_beside_the_matrix(classes):
    axes = draw(plots._draw_cooccurrence, classes, None, np.array(0.3))
    axes.figure.canvas.draw()
    matrix, boxes = axes.get_window_extent(), [scale.get_window_extent() for scale in axes.child_axes]
    assert len(boxes) == 2 and all((box.y0, box.y1) == pytest.approx((matrix.y0, matrix.y1)) for box in boxes)
    inches = [(box.x0 - matrix.x1) / axes.figure.dpi for box in boxes]
    assert inches == pytest.approx([0.15, 1.05])


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
