"""Pictures of explanations show what was chosen, where it is."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image
from tiny import create, torch

from gkgnet_timm.explanation.explain import explain
from gkgnet_timm.explanation.overlap import overlap
from gkgnet_timm.explanation.result import Chosen


def explained(size=(120, 80), classes=3, **options):
    model = create(num_classes=classes, img_size=64, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 64, 64), label_names=[f'$name_{i}^' for i in range(classes)])
    return explain(model, Image.effect_noise(size, 90).convert('RGB'), **options)


def boxes_on(axes):
    """Boxes that are drawn on axes, in pixels of the image, and the colours of their edges."""
    found = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle) and patch.get_linewidth() > 0:
            (x, y), width, height = patch.get_xy(), patch.get_width(), patch.get_height()
            found[tuple(round(v, 2) for v in (x, y, x + width, y + height))] = to_hex(patch.get_edgecolor()).upper()
    return found


def test_a_row_for_each_label_and_a_column_for_each_stage():
    explanation = explained(topk=2)
    figure = explanation.draw()
    panels = figure.axes[:-1]  # the last one is the colour bar
    assert len(panels) == 2 * (1 + 4 + 1)
    assert [axes.get_title() for axes in panels[:6]] == [
        'image', *(f'stage {i}: cells of {4 * 2 ** (i - 1)} px' for i in (1, 2, 3, 4)), 'overlap'
    ]  # fmt: skip
    for row, label in enumerate(explanation.labels):
        for stage in (1, 2, 3, 4):
            groups = {}
            for chosen in explanation.patches:
                if (chosen.label, chosen.stage) == (label.label, stage):
                    groups.setdefault(tuple(chosen.box), set()).add(chosen.group)
            colours = {1: '#0072B2', 2: '#D55E00'}
            expected = {box: colours[min(g)] if len(g) == 1 else '#CC79A7' for box, g in groups.items()}
            assert boxes_on(panels[6 * row + stage]) == expected
    text = ' '.join(item.get_text() for item in figure.findobj() if hasattr(item, 'get_text'))
    assert 'no proof' in text and f'{explanation.labels[0].score:.2f}' in text


def test_a_star():
    explanation = explained(patch=(5, 9), stages=[1, 4])
    figure = explanation.draw()
    assert len(figure.axes) == 2
    for axes, stage, center in zip(figure.axes, (1, 4), explanation.centers):
        boxes = {tuple(chosen.box) for chosen in explanation.patches if chosen.stage == stage}
        assert set(boxes_on(axes)) == boxes
        *lines, star = axes.lines
        middle = (center[0] + center[2]) / 2, (center[1] + center[3]) / 2
        assert (star.get_xdata()[0], star.get_ydata()[0]) == middle
        ends = {tuple(line.get_xydata()[1].round(2)) for line in lines}
        assert ends == {tuple(np.round([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2], 2)) for b in boxes}


@pytest.mark.parametrize('size', [(30, 400), (400, 30), (1, 1), (77, 77)])
def test_any_shape_can_be_drawn(size):
    figure = explained(size, topk=1).draw()
    file = io.BytesIO()
    figure.savefig(file, format='png')
    width, height = Image.open(file).size
    assert width < 1500 and 100 < height < 500


def test_overlap_counts_stages_and_groups():
    def at(stage, group, *box):
        return Chosen('a', stage, group, 1, 0, 0, list(box), 1.0)

    patches = [
        at(1, 1, 0, 0, 4, 4),
        at(1, 1, 2, 2, 4, 4),
        at(1, 2, 0, 0, 2, 2),
        at(2, 1, 0, 0, 8, 4),
        at(2, 1, 8, 8, 8, 8),
    ]
    counts = overlap(patches, (8, 8), (4, 4))
    assert counts.tolist() == [[3, 2, 1, 1], [2, 2, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_overlay_shows_the_image_where_the_node_looked():
    explanation = explained((60, 30), topk=1, stages=[1])
    shown = explanation.overlay(explanation.labels[0].label, side=60)
    assert shown.size == (60, 30)
    counts = overlap(explanation.patches, (60, 30), (60, 30))
    pixels, original = (np.asarray(image.convert('RGB'), dtype=float) for image in (shown, explanation.image))
    assert 0 < (counts == counts.max()).mean() < 0.5
    np.testing.assert_allclose(pixels[counts == counts.max()], original[counts == counts.max()], atol=1)
    assert (pixels[counts == 0] >= 0.64 * 255).all()  # pale
