"""What greying out costs, of a model whose scores depend on known pixels."""

import dataclasses

import numpy as np
import pytest
from corner import CELL, GREY, SIDE, WHITE, CornerModel, corner_score, explanation, image
from PIL import Image
from tiny import create

from gkgnet_timm.explanation.causal import Effect, conclude, measure
from gkgnet_timm.explanation.explain import explain

ALL = [(row, column) for row in range(4) for column in range(4)]
COST = corner_score(WHITE) - corner_score(GREY)


def test_the_pixels_that_matter():
    model = CornerModel().train()
    (effect,) = measure(model, explanation([(0, 0)]))
    assert effect[:2] == ('a.png', 'corner') and effect.score == pytest.approx(corner_score(WHITE), abs=1e-6)
    assert effect.drop == pytest.approx(COST, abs=1e-6)
    # none of the 15 others has the corner
    assert (effect.draws, effect.beats, effect.area) == (15, 1, 1 / 16)
    assert effect.random_mean == pytest.approx(0, abs=1e-6) and effect.random_sd == pytest.approx(0, abs=1e-6)
    assert model.modes == {False} and model.training


def test_pixels_that_do_not_matter():
    (effect,) = measure(CornerModel(), explanation([(3, 2)]))
    drops = [COST, *14 * [0]]  # one of the 15 others is the corner
    assert effect.drop == pytest.approx(0, abs=1e-6) and effect.draws == 15
    assert effect.random_mean == pytest.approx(np.mean(drops), abs=1e-6)
    assert effect.random_sd == pytest.approx(np.std(drops, ddof=1), abs=1e-6)
    assert effect.beats <= 14 / 15


def test_stages_are_greyed_out_together_and_as_large_in_every_draw():
    overlapping = explanation([(0, 0), (0, 1), (2, 1)], stages=3)
    (effect,) = measure(CornerModel(), overlapping)
    assert effect.area == 3 / 16 and effect.draws == 15 and effect.drop == pytest.approx(COST, abs=1e-6)
    # the corner is in 2 of them
    assert effect.random_mean == pytest.approx(2 * COST / 15, abs=1e-6)


def test_draws_can_be_repeated_and_depend_on_the_file():
    def drops(file, **options):
        return measure(CornerModel(), explanation([(1, 1)], file=file), draws=3, **options)[0].random_mean

    assert drops('x/a.png', batch_size=1) == pytest.approx(drops('y/a.png'), abs=1e-6)
    assert len({round(drops(f'{i}.png'), 6) for i in range(12)}) == 2  # one of three draws has the corner, or none


def test_nothing_to_compare_with():
    (effect,) = measure(CornerModel(), explanation(ALL))
    assert (effect.draws, effect.random_mean, effect.random_sd, effect.beats, effect.area) == (0, None, None, None, 1)
    (sentence,) = conclude([effect])
    assert sentence.startswith('The chosen patches of 1 label cover all of the image') and '--stages 1 2' in sentence


def test_padding_is_no_part_of_the_image():
    wide = image().crop((0, 0, SIDE, SIDE // 2))  # 8 rows of padding above and below it
    model = CornerModel(crop_mode='border')
    (effect,) = measure(model, explanation([(1, 0), (0, 3)], picture=wide))
    assert effect.area == 1 / 8  # one of the 8 cells of the image, the other is in the padding
    assert effect.draws == 7
    (effect,) = measure(model, explanation([(1, c) for c in range(4)] + [(2, c) for c in range(4)], picture=wide))
    assert effect.draws == 0


def test_labels_below_their_threshold_are_left_out():
    assert measure(CornerModel(), explanation([(0, 0)], threshold=0.99)) == []
    assert conclude([])[0].startswith('No label reaches its threshold')


def test_a_patch_has_no_score():
    of_patch = dataclasses.replace(explanation([]), patch=(0, 0))
    with pytest.raises(ValueError, match='A patch has no score'):
        measure(CornerModel(), of_patch)


def test_a_model_with_a_label_graph():
    model = create(num_classes=3, dtype=None)
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    explanation = explain(model, Image.effect_noise((90, 60), 90).convert('RGB'), threshold=0, stages=[1, 2])
    effects = measure(model, explanation)
    assert [effect.label for effect in effects] == [label.label for label in explanation.labels]
    np.testing.assert_allclose([e.score for e in effects], [label.score for label in explanation.labels], atol=1e-5)
    assert all(effect.draws == 20 and effect.area < 1 for effect in effects)
    of_one = measure(model, dataclasses.replace(explanation, labels=explanation.labels[1:2]))
    assert of_one[0].random_mean == pytest.approx(effects[1].random_mean, abs=1e-5)


def test_what_effects_show():
    def effect(drop, beats):
        return Effect('a.png', 'dog', 0.9, drop, 0.2, 0.1, 20, beats, CELL / SIDE)

    (sentence,) = conclude([effect(0.5, 1.0), effect(0.3, 0.95), effect(0.25, 0.9), effect(0.1, 0.2)])
    assert sentence == (
        'The chosen patches matter more than random parts do on average for 75 % of 4 confident labels, and more than '
        'at least 95 % of the random parts for 50 %.'
    )
