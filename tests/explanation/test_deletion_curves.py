"""Deletion and insertion curves of a model whose scores depend on known pixels, and its Grad-CAM."""

import sys

import numpy as np
import pytest
import torch
from corner import CELL, GREY, SIDE, WHITE, CornerModel, corner_score, explanation, image
from PIL import Image
from tiny import create

import timm

from gkgnet_timm.explanation import curves
from gkgnet_timm.explanation.curves import METHODS, SHARES, Curves
from gkgnet_timm.explanation.explain import explain
from gkgnet_timm.explanation.grad_cam import grad_cam
from gkgnet_timm.explanation.seen import see
from gkgnet_timm.runtime import UserError

PIXELS = SIDE**2
LAST = [(3, 3)]


def evaluated(cells, **kwargs):
    found = curves.evaluate(CornerModel(), [explanation(cells, **kwargs)])
    return {one.method: one for one in found}


def greyed(share):
    """Score when that share of the corner is grey."""
    return corner_score(WHITE + share * (GREY - WHITE))


def test_curves_of_known_pixels():
    of_method = evaluated([(0, 0)])
    assert list(of_method) == list(METHODS)
    first = [min(1, round(share * PIXELS) / CELL**2) for share in SHARES]  # the corner goes or comes first
    one = of_method['graph']
    assert one[:2] == ('a.png', 'corner')
    np.testing.assert_allclose(one.deletion, [greyed(share) for share in first], atol=1e-6)
    np.testing.assert_allclose(one.insertion, [greyed(1 - share) for share in first], atol=1e-6)
    areas = one.area('deletion'), one.area('insertion')
    assert areas == pytest.approx([np.interp(np.linspace(0, 1, 20001), SHARES, y).mean() for y in one[3:]], abs=1e-4)
    assert areas[0] < of_method['random'].area('deletion') and areas[1] > of_method['random'].area('insertion')
    np.testing.assert_allclose(of_method['grad_cam'].insertion[8:], greyed(0), atol=1e-6)


def test_a_label_that_looks_elsewhere():
    right, wrong = evaluated([(0, 0)]), evaluated([(1, 1), *LAST])
    assert wrong['graph'].area('deletion') > right['graph'].area('deletion') + 0.1
    assert wrong['graph'].area('insertion') < right['graph'].area('insertion') - 0.1
    for method in ('grad_cam', 'random'):  # are the same
        np.testing.assert_allclose(right[method].deletion, wrong[method].deletion, atol=1e-6)


def test_what_more_stages_chose_goes_first():
    chosen = explanation(LAST, stages=2)
    chosen.patches.extend(explanation([(0, 0)]).patches)
    (one, *_) = curves.evaluate(CornerModel(), [chosen])
    assert one.deletion[1] == pytest.approx(greyed(0), abs=1e-6) and one.deletion[3] == pytest.approx(greyed(1))


def test_what_is_more_similar_goes_first():
    chosen = explanation([(0, 0), *LAST])
    first, last = chosen.patches
    for similarity, share in ((0.6, 1), (0.4, 0), (-0.4, 0)):  # of the corner; 0.5 of the other cell
        chosen.patches[:] = [first._replace(similarity=similarity), last]
        (one, *_) = curves.evaluate(CornerModel(), [chosen])
        assert one.deletion[1] == pytest.approx(greyed(share * round(PIXELS / 20) / CELL**2), abs=1e-6)


def test_noise_is_of_the_file_and_ranks_what_is_equal():
    one, same, other = (evaluated([], file=file) for file in ('x/a.png', 'y/a.png', 'b.png'))
    np.testing.assert_array_equal(one['random'].deletion, same['random'].deletion)
    assert np.abs(one['random'].deletion - other['random'].deletion).max() > 0.02
    np.testing.assert_allclose(one['graph'].deletion, one['random'].deletion, atol=1e-6)


def test_confident_labels_alone_and_at_most_as_many():
    unsure = explanation([(0, 0)], threshold=0.99)
    assert list(curves.evaluate(CornerModel(), [unsure])) == []
    both = explanation([(0, 0)])
    both.labels.append(explanation([], label='nothing').labels[0])
    for most, labels in ((3, ['nothing', 'corner']), (1, ['corner'])):
        found = list(curves.evaluate(CornerModel(), [both], labels=most))
        assert {one.label for one in found} == set(labels) and len(found) == 3 * len(labels)


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC', 'NLC'])
def test_grad_cam_of_any_layout(layout):
    model = CornerModel(layout).train()
    cam, _ = grad_cam(model, see(model, image()).pixels, [0, 1])
    assert cam.shape == (SIDE, SIDE) and cam.max() == pytest.approx(1, abs=1e-3)
    assert np.unravel_index(cam.argmax(), cam.shape) < (CELL, CELL) and not cam[2 * CELL :, 2 * CELL :].any()
    assert model.training and not model.maps._forward_hooks


def test_grad_cam_of_real_models():
    backbone = timm.create_model('gkgnet_backbone', backbone='vit_tiny_patch16_224', img_size=64, num_classes=3)
    for model in (create(num_classes=3, dtype=torch.float32), backbone.eval().requires_grad_(False)):
        pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        cams = grad_cam(model, pixels, [0, 2])
        assert cams.shape == (2, 64, 64) and np.isfinite(cams).all() and 0 <= cams.min() <= cams.max() <= 1
        assert all(parameter.grad is None for parameter in model.parameters())
        np.testing.assert_allclose(grad_cam(model, pixels, [2])[0], cams[1], atol=1e-4)


def test_grad_cam_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    with pytest.raises(UserError, match=r"pip install 'gkgnet-timm\[explain\]'"):
        evaluated([(0, 0)])


def test_a_model_with_a_label_graph():
    model = create(num_classes=3, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    images = [Image.effect_noise((90, 60), 90).convert('RGB') for _ in range(2)]
    explanations = [explain(model, image, threshold=0) for image in images]
    found = list(curves.evaluate(model, explanations, labels=2))
    assert len(found) == 2 * 2 * 3
    for one in found:
        assert one.deletion[0] == pytest.approx(one.insertion[-1], abs=1e-6)
        assert one.deletion[-1] == pytest.approx(one.insertion[0], abs=1e-6)
    labels = {label.label: label.score for label in explanations[0].labels}
    assert found[0].deletion[0] == pytest.approx(labels[found[0].label], abs=1e-5)


def flat(**areas):
    """Curves of constant scores for several labels: method=(deletion, insertion) of each."""
    return [
        Curves('a.png', f'label {i}', method, *(np.full(len(SHARES), value) for value in of_label))
        for method, of_labels in areas.items()
        for i, of_label in enumerate(of_labels)
    ]


def test_which_explains_better():
    cam = [(0.5, 0.5), (0.3, 0.7), (0.4, 0.6)]
    chance = [(0.6, 0.4)] * 3
    better = flat(graph=[(0.3, 0.6), (0.15, 0.8), (0.2, 0.75)], grad_cam=cam, random=chance)
    assert curves.conclude(better) == (
        'On this image with 3 confident labels, the label graph explains better than Grad-CAM, by deletion and by '
        'insertion.'
    )
    rows = curves.compare(better)
    assert [row['method'] for row in rows] == ['label graph', 'Grad-CAM', 'random', 'label graph - Grad-CAM']
    assert rows[1] == dict(method='Grad-CAM', deletion='0.400 ± 0.058', insertion='0.600 ± 0.058')
    assert rows[3]['deletion'] == '-0.183 ± 0.017' and rows[3]['insertion'] == '+0.117 ± 0.017'
    mixed = flat(graph=[(0.6, 0.55), (0.41, 0.7), (0.52, 0.55)], grad_cam=cam, random=chance)
    assert 'Grad-CAM explains better than the label graph by deletion, and neither' in curves.conclude(mixed)
    single = flat(graph=[(0.1, 0.9)], grad_cam=[(0.5, 0.5)], random=[(0.5, 0.5)])
    assert 'neither of label graph and Grad-CAM is clearly better' in curves.conclude(single)  # one label is no proof


def test_table_and_picture():
    found = flat(graph=[(0.3, 0.6), (0.1, 0.8)], grad_cam=[(0.5, 0.5), (0.3, 0.7)], random=[(0.6, 0.4)] * 2)
    rows = curves.steps(found)
    assert len(rows) == 6 * len(SHARES)
    assert rows[1] == dict(file='a.png', label='label 0', method='graph', share=0.05, deletion=0.3, insertion=0.6)
    figure = curves.draw_curves(found)
    for axes, expected in zip(figure.axes, ([0.2, 0.4, 0.6], [0.7, 0.6, 0.4])):
        assert [line.get_ydata().mean() for line in axes.lines] == pytest.approx(expected)
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts[0] == f'label graph, area {expected[0]:.3f}'
    figure.canvas.draw()
