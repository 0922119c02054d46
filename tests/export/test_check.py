"""The proof of an export: what is wrong for one class, one image or one output is wrong."""

import pytest
import torch

from gkgnet_timm.export.check import Expected, compare


def outputs(noise=0.0):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=generator) + noise
    embedding = torch.randn(4, 8, generator=generator) + noise
    neighbors = torch.randint(0, 50, (4, 2, 1, 6, 3), generator=generator)
    return dict(prediction=logits.sigmoid(), logits=logits, embedding=embedding, neighbors=neighbors)


def judged(change):
    """The difference of a file that gives what PyTorch gives, changed."""
    given = outputs()
    change(given)
    return compare(lambda images: given, [Expected(torch.zeros(4, 3, 2, 2), outputs(1e-6), outputs())], 0.5)


def test_rounding_is_right():
    def change(given):
        given['logits'] += 1e-6

    found = judged(change)
    assert found.is_right and found.neighbors == found.labels == 1.0 and 0 < found.double < 1e-5


def one_class(given):
    given['logits'][:, 2] += 1
    given['prediction'] = given['logits'].sigmoid()


def one_image(given):
    for name in ('logits', 'prediction', 'embedding'):
        given[name][3] = given[name][0]


def no_embedding(given):
    given['embedding'] *= 0


def other_prediction(given):
    given['prediction'] = given['prediction'].flip(1)


def other_neighbors(given):
    given['neighbors'] = given['neighbors'] + 50


def not_finite(given):
    given['logits'][0, 0] = torch.nan


WRONG = [one_class, one_image, no_embedding, other_prediction, other_neighbors, not_finite]


@pytest.mark.parametrize('change', WRONG, ids=lambda change: change.__name__)
def test_wrong(change):
    assert not judged(change).is_right
