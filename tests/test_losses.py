"""The published loss against its test vectors, timm's losses where all targets are known, and what unknown ones do."""

import math

import numpy as np
import pytest
import torch

from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy, create_classification_loss

from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.loss import GKGNetLoss, KnownLoss
from gkgnet_timm.training.criterion import create_criterion

TARGET = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0]])
LOGITS = torch.tensor([[2, -1, 0.5, -3], [-2, 3, -0.5, 0]])
COUNTS = (torch.tensor([2, 30, 12, 0, 99]), 100)  # images with each class, of how many

# flags, and the arguments of timm's factory that they stand for
TIMM_LOSSES = {
    'bce': (['bce'], {}),
    'bce_sum': (['bce', '--bce-sum', '--smoothing', '0.1'], dict(bce_sum=True, smoothing=0.1)),
    'asl': (['asl', '--smoothing', '0.2'], dict(smoothing=0.2)),
    'asl_mean': (['asl', '--asl-reduction', 'mean', '--asl-clip', '0'], dict(asl_reduction='mean', asl_clip=0)),
    'asl_sum': (
        ['asl', '--asl-reduction', 'sum', '--asl-gamma-neg', '2', '--asl-gamma-pos', '0'],
        dict(asl_reduction='sum', asl_gamma_neg=2, asl_gamma_pos=0),
    ),
    'poly': (
        ['poly', '--poly-epsilon', '1', '--poly-gamma', '2', '--poly-alpha', '0.3'],
        dict(poly_epsilon=1, poly_gamma=2, poly_alpha=0.3),
    ),
    'twoway': (['twoway', '--twoway-tp', '2', '--twoway-tn', '3'], dict(twoway_tp=2, twoway_tn=3)),
    'zlpr': (['zlpr'], {}),
    'db': (
        ['db', '--db-neg-scale', '3', '--db-init-bias', '0.1', '--db-focal-gamma', '1', '--smoothing', '0.1'],
        dict(db_neg_scale=3, db_init_bias=0.1, db_focal_gamma=1, smoothing=0.1),
    ),
}
MEANS = ('bce', 'asl_mean', 'poly', 'db')  # over all known elements of the batch


def flags(loss, *others):
    return parse_flags(['--dataset', 'coco', '--data-dir', 'x', '--loss', loss, *others])[0]


def create(name):
    if name == 'gkgnet':
        return create_criterion(flags('gkgnet'), len(COUNTS[0]))
    return create_criterion(flags(*TIMM_LOSSES[name][0]), len(COUNTS[0]), COUNTS if name == 'db' else None)


def value_and_gradient(loss, logits, target):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


def random_batch(seed=0, images=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 5, generator=generator) * 3
    target = (torch.rand(images, 5, generator=generator) < 0.4).float()
    target[0] = 0  # no label
    return logits, target


def closed_form(z, y):
    """Value and gradient of the recipe in float64."""
    p, t = 1 / (1 + np.exp(-z)), np.where(y > 0, 0.9, 0.1)
    q = np.minimum(1 - p + 0.05, 1)
    bce = np.logaddexp(0, z) - t * z
    asymmetric = np.where(y > 0, -np.log(p), -np.log(q) * (1 - q) ** 2)
    slope = np.where(p > 0.05, ((1 - q) ** 2 / q - 2 * np.log(q) * (1 - q)) * p * (1 - p), 0)
    gradient = p - t + 10 * np.where(y > 0, p - 1, slope)
    return (bce + 10 * asymmetric).sum() / len(z), gradient / len(z)


def test_published_vectors():
    loss = GKGNetLoss()
    bce, asymmetric = loss.terms(LOGITS.double(), TARGET)
    assert bce.item() == pytest.approx(2.1527970, abs=1e-6)
    assert asymmetric.item() / 10 == pytest.approx(0.7806499, abs=1e-6)
    value, gradient = value_and_gradient(loss, LOGITS, TARGET)
    assert value.item() == pytest.approx(9.9592962, abs=1e-6)
    expected = torch.tensor([[-0.6056, 0.2512, 2.3050, -0.0263], [0.0175, -0.2108, -3.3735, 1.3328]])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_published_loss_is_the_closed_form(dtype):
    generator = np.random.default_rng(0)
    logits, target = generator.normal(scale=4, size=(64, 80)), generator.random((64, 80)) < 0.05
    value, gradient = value_and_gradient(
        GKGNetLoss(), torch.from_numpy(logits).to(dtype), torch.from_numpy(target).float()
    )
    expected, expected_gradient = closed_form(logits, target)
    assert value.dtype == dtype and value.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=0, atol=1e-6)


def test_published_loss_of_zero_logits():
    target = torch.zeros(7, 80)
    target[:, :3] = 1
    logits = torch.zeros(7, 80, dtype=torch.float64)
    bce, asymmetric = GKGNetLoss().terms(logits, target)
    assert bce.item() == pytest.approx(55.4518, abs=5e-5)
    assert asymmetric.item() == pytest.approx(114.01215, abs=5e-6)  # the recipe has 114.0121
    assert GKGNetLoss().terms(logits, 1 - target)[0].item() == pytest.approx(bce.item(), rel=1e-12)


@pytest.mark.parametrize('label, fixed_point', [(1.0, 0.9909), (0.0, 0.0947)])
def test_published_fixed_points(label, fixed_point):
    p = torch.arange(0.0001, 1, 0.0001, dtype=torch.float64)
    logits = p.logit()[:, None].requires_grad_()
    GKGNetLoss()(logits, torch.full_like(logits, label)).backward()
    (crossing,) = torch.nonzero((logits.grad[:-1, 0] < 0) & (logits.grad[1:, 0] >= 0))
    assert p[crossing].item() == pytest.approx(fixed_point, abs=1e-4)


def test_published_loss_from_parts_of_timm():
    bce, asymmetric = GKGNetLoss().terms(LOGITS, TARGET)
    theirs = BinaryCrossEntropy(smoothing=0.2, smooth_dense=True, sum_classes=True)(LOGITS, TARGET)
    torch.testing.assert_close(bce, theirs)
    theirs = 10 * AsymmetricLossMultiLabel(gamma_neg=2, gamma_pos=0, clip=0.05)(LOGITS, TARGET)
    torch.testing.assert_close(asymmetric, theirs)


@pytest.mark.parametrize('weight', [0.0, 0.25, 0.7, 1.0])
def test_published_loss_interpolates_soft_targets(weight):
    """It is linear in the target, so a mixed one has the mixed loss."""
    loss, other = GKGNetLoss(), TARGET.flip(0)
    mixed = loss(LOGITS, weight * TARGET + (1 - weight) * other)
    torch.testing.assert_close(mixed, weight * loss(LOGITS, TARGET) + (1 - weight) * loss(LOGITS, other))


@pytest.mark.parametrize('name', TIMM_LOSSES)
def test_known_targets_have_the_loss_of_timm(name):
    _, kwargs = TIMM_LOSSES[name]
    counts = dict(class_counts=COUNTS[0], num_samples=COUNTS[1]) if name == 'db' else {}
    theirs = create_classification_loss(name.split('_')[0], multi_label=True, **kwargs, **counts)
    logits, target = random_batch()
    ours, expected = (value_and_gradient(loss, logits, target) for loss in (create(name), theirs))
    assert expected[0] > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('mark', [-1.0, torch.nan])
@pytest.mark.parametrize('name', ['gkgnet', *TIMM_LOSSES])
def test_unknown_targets_are_as_good_as_not_there(name, mark):
    """Whatever the logits of a class that is unknown everywhere, the loss is that without the class."""
    loss = create(name)
    logits, target = random_batch()
    unknown = target.clone()
    unknown[:, 1] = mark
    value, gradient = value_and_gradient(loss, logits, unknown)
    assert (gradient[:, 1] == 0).all() and gradient[:, [0, 2, 3, 4]].abs().sum() > 0
    logits[:, 1] = torch.linspace(-80, 80, len(logits))
    assert loss(logits, unknown) == value

    rest = [0, 2, 3, 4]
    if name == 'db':
        loss = create_criterion(flags(*TIMM_LOSSES['db'][0]), len(rest), (COUNTS[0][rest], COUNTS[1]))
    without = value_and_gradient(loss, logits[:, rest], unknown[:, rest])
    torch.testing.assert_close((value, gradient[:, rest]), without, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', ['gkgnet', *MEANS, 'asl', 'asl_sum', 'bce_sum'])
def test_scattered_unknown_targets(name):
    """In losses of elements the known ones have the gradient that they have without any unknown."""
    loss = create(name)
    logits, target = random_batch()
    known = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    known |= target > 0  # the weights of 'db' are those of all labels of an image
    _, whole = value_and_gradient(loss, logits, target)
    _, gradient = value_and_gradient(loss, logits, target.where(known, -1))
    scale = known.numel() / known.sum() if name in MEANS else 1
    assert (gradient[~known] == 0).all() and (~known).any()
    torch.testing.assert_close(gradient[known], scale * whole[known], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', ['zlpr', 'twoway'])
def test_scattered_unknown_targets_between_logits(name):
    """A log-sum-exp over the known classes alone, by hand."""
    logits, target = torch.tensor([[2.0, -1, 0.5]]), torch.tensor([[1.0, 0, -1]])
    if name == 'zlpr':
        expected = math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))
    else:  # within the image; over the only image of class 0 there is no negative
        expected = math.log1p(math.exp(-1 - 2))
    assert create(name)(logits, target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('mark', [-1.0, torch.nan])
@pytest.mark.parametrize('name', ['gkgnet', *TIMM_LOSSES])
def test_batch_without_known_targets(name, mark):
    value, gradient = value_and_gradient(create(name), random_batch()[0], torch.full((6, 5), mark))
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', ['gkgnet', *TIMM_LOSSES])
def test_half_precision_logits(name, dtype):
    """They are raised before any of the loss, so only their own rounding is lost, and none is too large."""
    logits, target = random_batch()
    target[1, 2] = -1
    logits = logits.to(dtype)
    value, gradient = value_and_gradient(create(name), logits, target)
    expected, expected_gradient = value_and_gradient(create(name), logits.float(), target)
    assert value.dtype == torch.float32 and value == expected
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=0, atol=0)
    extreme = torch.tensor([[60000.0, -60000, 60000, -60000, 0]]).to(dtype)
    value, gradient = value_and_gradient(create(name), extreme, torch.tensor([[1.0, 1, 0, 0, -1]]))
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize('loss', ['bce', 'asl'])
@pytest.mark.parametrize(
    'flag, value, weights',
    [
        ('pos', '3', [3.0] * 5),
        ('class', '0.5', [0.5] * 5),
        ('class', '1,0,2,0.5,4', [1, 0, 2, 0.5, 4]),
        ('pos', 'neg_pos', [98 / 2, 70 / 30, 88 / 12, 99 / 1, 1 / 99]),
        ('class', 'inv_freq', np.array([50, 100 / 30, 100 / 12, 100, 100 / 99]) * 5 / (150 + 350 / 30 + 100 / 99)),
    ],
)
def test_weights(loss, flag, value, weights):
    """Of the positive targets or of all of a class, by number, list or frequency."""
    logits, target = random_batch()
    plain, weighted = (
        create_criterion(flags(loss, *rest), 5, COUNTS) for rest in ([], [f'--loss-{flag}-weight', value])
    )
    factor = torch.tensor(weights, dtype=torch.float32).expand(6, 5)
    if flag == 'pos':
        factor = torch.where(target > 0, factor, 1)
    gradient, expected = (value_and_gradient(each, logits, target)[1] for each in (weighted, plain))
    torch.testing.assert_close(gradient, expected * factor, rtol=1e-5, atol=1e-7)


def test_weights_have_a_power_and_a_cap():
    loss = create_criterion(
        flags('bce', '--loss-pos-weight', 'neg_pos', '--loss-weight-power', '0.5', '--loss-weight-max', '5'), 5, COUNTS
    )
    expected = [5, (70 / 30) ** 0.5, (88 / 12) ** 0.5, 5, (1 / 99) ** 0.5]
    torch.testing.assert_close(loss.loss.pos_weight, torch.tensor(expected))


def test_default_losses():
    for model, kind in (('gkgnet_ti_224', GKGNetLoss), ('resnet18', KnownLoss)):
        config, _ = parse_flags(['--dataset', 'coco', '--data-dir', 'x', '--model', model])
        assert isinstance(create_criterion(config, 5), kind)


@pytest.mark.parametrize(
    'argv, counts, message',
    [
        (['gkgnet', '--smoothing', '0.1'], None, 'gkgnet'),
        (['gkgnet', '--loss-pos-weight', '2'], None, 'gkgnet'),
        (['poly', '--loss-class-weight', '2'], None, 'bce and multi-label asl'),
        (['asl', '--bce-sum'], None, 'bce loss'),
        (['db'], None, 'class_counts'),
        (['bce', '--loss-pos-weight', 'neg_pos'], None, '--loss-pos-weight'),
        (['bce', '--loss-pos-weight', 'inv_freq'], COUNTS, '--loss-pos-weight'),
        (['bce', '--loss-class-weight', 'nowhere.json'], COUNTS, "--loss-class-weight 'nowhere.json'"),
        (['bce', '--loss-class-weight', '1,2'], COUNTS, "--loss-class-weight '1,2': 2 weights for 5 classes"),
        (['asl', '--loss-class-weight', '-1'], COUNTS, '--loss-class-weight'),
        (['twoway', '--mixup', '0.2'], None, 'twoway'),
        (['zlpr', '--cutmix', '1'], None, 'zlpr'),
        (['zlpr', '--smoothing', '0.1'], None, 'zlpr'),
    ],
)
def test_errors(argv, counts, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_criterion(flags(*argv), 5, counts)
    assert '\n' not in str(caught.value)
