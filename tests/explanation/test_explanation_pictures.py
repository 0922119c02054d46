"""Pictures of explanations show what was chosen, where it is."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from tiny import create, torch

from gkgnet_timm.explanation.explain import explain
from gkgnet_timm.explanation.overlap import overlap
from gkgnet_timm.explanation.panels import groups_colour
from gkgnet_timm.explanation.result import Chosen


def explained(size=(120, 80), classes=3, **options):
    model = create(num_classes=classes, img_size=64, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 64, 64), label_names=[f'$name_{i}^' for i in range(classes)])
    return explain(model, Image.effect_noise(size, 90).convert('RGB'), **options)


def rounded(box):
    return tuple(round(side, 4) for side in box)


def boxes_on(axes):
    """Boxes that are drawn on axes, in pixels of the image, and their colours."""
    found = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle) and patch.get_gid() == 'cell':
            (x, y), width, height = patch.get_xy(), patch.get_width(), patch.get_height()
            found[tuple(round(v, 4) for v in (x, y, x + width, y + height))] = to_hex(patch.get_facecolor()).upper()
    return found


def test_a_row_for_each_label_and_a_column_for_each_stage():
    explanation = explained(topk=2)
    figure = explanation.draw()
    panels = figure.axes[:-1]  # the last one is the colour bar
    assert len(panels) == 2 * (1 + 4 + 1)
    assert [axes.get_title() for axes in panels[:6]] == [
        'image', *(f'stage {i}\n{4 * 2 ** (i - 1)} px cells' for i in (1, 2, 3, 4)), 'overlap'
    ]  # fmt: skip
    for row, label in enumerate(explanation.labels):
        for stage in (1, 2, 3, 4):
            groups = {}
            for chosen in explanation.patches:
                if (chosen.label, chosen.stage) == (label.label, stage):
                    groups.setdefault(rounded(chosen.box), set()).add(chosen.group)
            colours = {1: '#0072B2', 2: '#D55E00'}
            expected = {box: colours[min(g)] if len(g) == 1 else '#CC79A7' for box, g in groups.items()}
            assert boxes_on(panels[6 * row + stage]) == expected
    text = ' '.join(item.get_text() for item in figure.findobj() if hasattr(item, 'get_text'))
    assert 'no proof' in text and f'{explanation.labels[0].score:.2f}' in text


@pytest.mark.parametrize('threshold, sign', [(0.01, '≥ 0.01'), (0.99, '< 0.99')])
def test_scores_are_set_against_their_thresholds(threshold, sign):
    texts = explained(topk=1, threshold=threshold).draw().axes[0].texts
    assert sign in texts[0].get_text()


def test_a_star():
    explanation = explained(patch=(5, 9), stages=[1, 4])
    figure = explanation.draw()
    assert len(figure.axes) == 2
    for axes, stage, center in zip(figure.axes, (1, 4), explanation.centers):
        boxes = {rounded(chosen.box) for chosen in explanation.patches if chosen.stage == stage}
        assert set(boxes_on(axes)) == boxes
        *lines, star = axes.lines
        middle = (center[0] + center[2]) / 2, (center[1] + center[3]) / 2
        assert (star.get_xdata()[0], star.get_ydata()[0]) == middle
        ends = {tuple(line.get_xydata()[1].round(3)) for line in lines}
        assert ends == {tuple(np.round([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2], 3)) for b in boxes}


@pytest.mark.parametrize('size', [(30, 400), (400, 30), (1, 1), (77, 77)])
@pytest.mark.parametrize('options', [dict(topk=1), dict(topk=1, stages=[1]), dict(patch=(0, 0), stages=[4])])
def test_all_text_is_in_the_picture(size, options):
    explanation = explained(size, **options)
    figure = dataclasses.replace(explanation, file='a name of some length.png', model='gkgnet_ti_224').draw()
    file = io.BytesIO()
    figure.savefig(file, format='png')
    width, height = Image.open(file).size
    assert width < 1500 and 100 < height < 500
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = {text: text.get_window_extent() for text in texts}
    for text, box in boxes.items():
        assert 0 <= box.x0 and box.x1 <= width + 1 and 0 <= box.y0 and box.y1 <= height + 1, (text, box)
    titles = sorted((axes.title for axes in figure.axes if axes.get_title()), key=lambda title: boxes[title].x0)
    assert all(boxes[left].x1 < boxes[right].x0 for left, right in zip(titles, titles[1:]))


def test_nearer_is_darker_and_small_cells_are_of_their_size():
    figure = explained((640, 640), topk=1).draw()
    by_stage = [[p for p in axes.patches if p.get_gid() == 'cell'] for axes in figure.axes[1:5]]
    assert len({patch.get_alpha() for patch in by_stage[2]}) > 2
    assert any(patch.get_gid() == 'outline' for patch in figure.axes[3].patches)
    model = create(num_classes=2, img_size=256, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 256, 256))
    assert 'alike' not in figure.texts[-1].get_text()
    figure = explain(model, Image.effect_noise((256, 256), 90).convert('RGB'), topk=1).draw()
    first = figure.axes[1]
    assert 'the smallest cells all alike' in ' '.join(figure.texts[-1].get_text().split())
    assert {patch.get_gid() for patch in first.patches} == {'cell'}  # an outline would make them larger
    assert {patch.get_alpha() for patch in first.patches} == {None}


def test_the_overlap_is_drawn():
    explanation = explained((64, 64), topk=1)
    *_, panel, bar = explanation.draw().axes
    shown = panel.images[0].get_array()
    counts = overlap(explanation.patches, (64, 64), (64, 64))
    assert shown.shape[:2] == (64, 64) and bar.get_ylim() == (0, counts.max())
    colours = {count: shown[counts == count].mean() for count in np.unique(counts)}
    assert sorted(colours, key=colours.get, reverse=True) == sorted(colours)  # the more, the darker


def test_what_the_model_did_not_see_is_marked():
    explanation = explained((200, 100), topk=1)
    part = dict(start=(50.0, 0.0), scale=(100 / 64, 100 / 64))  # as a centre crop has
    cropped = dataclasses.replace(explanation, frame=explanation.frame._replace(**part)).draw()
    for figure, marked in ((explanation.draw(), False), (cropped, True)):
        assert any(patch.get_gid() == 'part' for patch in figure.axes[0].patches) == marked
        assert ('what the model saw' in ' '.join(figure.texts[-1].get_text().split())) == marked
    hidden = [chosen._replace(box=[0.0, 0.0, 9.0, 0.0]) for chosen in explanation.patches[:3]]
    figure = dataclasses.replace(explanation, patches=hidden + explanation.patches[3:]).draw()
    text = ' '.join(figure.texts[-1].get_text().split())
    assert f'3 of {len(explanation.patches)} choices are in the padding and not shown' in text


@pytest.mark.parametrize('groups', [1, 2, 4, 8])
def test_every_group_has_a_colour(groups):
    colours = {to_hex(groups_colour([group], groups)) for group in range(1, groups + 1)}
    assert len(colours) == groups and to_hex(groups_colour([1, 2], 2)) not in colours


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
    with pytest.raises(ValueError, match="'cat' is not explained here"):
        explanation.overlay('cat')
