"""Multi-label metrics against the published evaluation and other libraries; batches against one shot."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from filler import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gkgnet_timm.metrics import MultiLabelEvaluator, average_precision, multilabel_metrics

LABELS_ONLY = ROOT.parent / 'shared' / 'data' / 'labels_only'
FIGURES = ('CP', 'CR', 'CF1', 'OP', 'OR', 'OF1')
TOP3_FIGURES = tuple(f'{name}_top3' for name in ('CP', 'CR', 'OP', 'CF1', 'OR', 'OF1'))
TOLERANCE = 1e-6

# --- the published evaluation


def golden(case):
    arrays = np.load(GOLDEN / 'metrics.npz')
    expected = json.loads((GOLDEN / 'metrics.json').read_text())[case]
    return arrays[f'{case}.scores'], arrays[f'{case}.targets'], expected


def ordered_ap(score, target, first):
    """AP, in percent, with positives first or last among equal scores."""
    positive = target[np.lexsort((-target if first else target, -score))] > 0
    return 100 * (positive.cumsum() / np.arange(1, len(score) + 1))[positive].mean()


@pytest.mark.parametrize('case', ['coco_like', 'small_empty_class', 'ties'])
def test_golden(case):
    scores, targets, expected = golden(case)
    metrics = multilabel_metrics(scores, torch.from_numpy(targets))
    assert tuple(metrics)[:13] == ('mAP', *FIGURES, *TOP3_FIGURES)
    for name in (*FIGURES, *TOP3_FIGURES):
        assert metrics[name] == pytest.approx(expected[name], abs=TOLERANCE), name

    tied = np.array([len(np.unique(column)) < len(column) for column in scores.T])
    assert tied.sum() == dict(coco_like=5, small_empty_class=0, ties=10)[case]
    ap, expected_ap = metrics['per_class_ap'], np.array(expected['per_class_ap'])
    assert np.abs(ap - expected_ap)[~tied].max(initial=0) < TOLERANCE
    for i in np.flatnonzero(tied):
        last, first = (ordered_ap(scores[:, i], targets[:, i], first) for first in (False, True))
        for value in (ap[i], expected_ap[i]):
            assert last - TOLERANCE <= value <= first + TOLERANCE
    assert metrics['mAP'] == pytest.approx(np.where(tied, ap, expected_ap).mean(), abs=TOLERANCE)
    present = targets.any(axis=0)
    assert metrics['mAP_present'] == pytest.approx(ap[present].mean())
    assert (ap[~present] == 0).all() and (~present).any() == (case == 'small_empty_class')


def test_golden_difficult_labels_and_plain_top3():
    scores, targets, expected = golden('voc_difficult')
    metrics = multilabel_metrics(scores, targets, topk_gated=False)
    assert metrics['mAP'] == pytest.approx(expected['mAP'], abs=TOLERANCE)
    for name in FIGURES:
        assert metrics[name] == pytest.approx(expected['thr0.5'][name], abs=TOLERANCE)
        assert metrics[f'{name}_top3'] == pytest.approx(expected['top3'][name], abs=TOLERANCE)


def test_golden_area():
    scores, targets, expected = golden('area')
    areas = np.load(GOLDEN / 'metrics.npz')['area.area']
    metrics = multilabel_metrics(scores, targets, areas=areas)
    for name, value in expected.items():
        assert metrics[f'AP_{name}'] == pytest.approx(value, abs=TOLERANCE)
    # areas on the bounds belong to the larger range, unknown ones to none
    bounds = np.array([[1024.0], [9216.0], [1023.0], [np.nan]])
    metrics = multilabel_metrics([[0.9], [0.8], [0.7], [0.6]], [[1], [1], [0], [1]], areas=bounds)
    # no object is in the smallest range, which is left out
    assert {name: value for name, value in metrics.items() if name[:3] == 'AP_'} == dict(AP_medium=100, AP_large=100)


def test_worked_example():
    scores = [[0.9, 0.8, 0.7, 0.6], [0.8, 0.55, 0.1, 0.3], [0.4, 0.95, 0.51, 0.05], [0.3, 0.45, 0.65, 0.85]]
    scores.append([0.1, 0.6, 0.52, 0.53])
    targets = [[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 1]]
    metrics = multilabel_metrics(scores, targets)
    assert metrics['per_class_ap'] == pytest.approx([86.6667, 80.5556, 100, 100], abs=1e-4)
    values = [91.8056, 81.25, 91.6667, 86.1446, 76.9231, 90.9091, 83.3333]
    values += [81.25, 83.3333, 75, 82.2785, 81.8182, 78.2609]
    assert [metrics[name] for name in ('mAP', *FIGURES, *TOP3_FIGURES)] == pytest.approx(values, abs=1e-4)


# --- other libraries


def assert_sklearn_ap(scores, targets):
    sklearn_metrics = pytest.importorskip('sklearn.metrics')
    expected = np.zeros(targets.shape[1])
    for i, (score, target) in enumerate(zip(scores.T, targets.T)):
        known = target >= 0
        if (target > 0).any():
            expected[i] = sklearn_metrics.average_precision_score(target[known], score[known])
    assert np.abs(average_precision(scores, targets) - expected).max() < 1e-12


@pytest.mark.parametrize('decimals', [1, 2, 7])
def test_sklearn(decimals):
    rng = np.random.default_rng(decimals)
    scores = rng.random((500, 12)).round(decimals)
    targets = rng.choice([-1, 0, 1], (500, 12), p=[0.1, 0.7, 0.2])
    targets[:, 3] = 0
    assert_sklearn_ap(scores, targets)


@pytest.mark.skipif(not LABELS_ONLY.is_dir(), reason='no label matrices')
@pytest.mark.parametrize('name', ['voc2007', 'coco'])
def test_sklearn_on_real_labels(name):
    if name == 'voc2007':
        data = np.load(LABELS_ONLY / 'voc2007_official_labels.npz')
        targets = data['labels'][data['split'] == 'test']
    else:
        data = np.load(LABELS_ONLY / 'coco_val2014_people_labels_79.npz')
        targets = data['val_labels']  # uint8
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(targets.shape) + 2 * (targets == 1) - 2
    scores = torch.from_numpy(logits).half().sigmoid().float().numpy()  # half precision ties in droves
    assert_sklearn_ap(scores, targets)
    assert_sklearn_ap(logits, targets)


@pytest.mark.parametrize('average', ['macro', 'micro'])
def test_torchmetrics(average):
    classification = pytest.importorskip('torchmetrics.classification')
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(400, 9, generator=generator)
    targets = (torch.rand(400, 9, generator=generator) < 0.2).long()
    targets[:, 2] = 0
    scores[:, 4] = scores[:, 4] / 3  # nothing predicted
    metrics = multilabel_metrics(scores, targets)
    kind = 'C' if average == 'macro' else 'O'
    names = {'Precision': f'{kind}P', 'Recall': f'{kind}R'}
    if average == 'micro':  # macro there is the mean of F1, here F1 of the means
        names['F1Score'] = 'OF1'
    for name, ours in names.items():
        metric = getattr(classification, f'Multilabel{name}')(num_labels=9, average=average)
        assert metrics[ours] == pytest.approx(100 * metric(scores, targets).item(), abs=1e-4)
    present = targets.any(dim=0)
    metric = classification.MultilabelAveragePrecision(num_labels=int(present.sum()), average='macro')
    expected = 100 * metric(scores[:, present], targets[:, present]).item()
    assert metrics['mAP_present'] == pytest.approx(expected, abs=1e-4)


# --- properties


@st.composite
def cases(draw, scores=(0, 40)):
    """Scores, whole numbers so that many are equal, and targets."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 6)))
    low, high = scores
    return (
        draw(hnp.arrays(np.int64, shape, elements=st.integers(low, high))),
        draw(hnp.arrays(np.int64, shape, elements=st.sampled_from([-1, 0, 0, 1]))),
    )


property_test = settings(deadline=None, max_examples=60, derandomize=True, database=None)


@property_test
@given(cases(), st.randoms(use_true_random=False))
def test_order_of_images_and_classes(case, random):
    scores, targets = case[0] / 40, case[1]
    metrics = multilabel_metrics(scores, targets)
    rows, columns = (random.sample(range(n), n) for n in scores.shape)
    shuffled = multilabel_metrics(scores[rows], targets[rows])
    assert (shuffled.pop('per_class_ap') == metrics['per_class_ap']).all()
    assert all(value == metrics[name] for name, value in shuffled.items())
    shuffled = multilabel_metrics(scores[:, columns], targets[:, columns])
    assert (shuffled.pop('per_class_ap') == metrics['per_class_ap'][columns]).all()
    assert all(value == pytest.approx(metrics[name], abs=1e-9) for name, value in shuffled.items())


@property_test
@given(cases())
def test_all_figures_are_percentages(case):
    metrics = multilabel_metrics(case[0] / 40, case[1], areas=case[0] * 500, topk_gated=False)
    for name, value in metrics.items():
        assert np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 100 + 1e-9)), name


@property_test
@given(cases())
def test_monotone_transforms_leave_ap(case):
    scores, targets = case
    ap = average_precision(scores, targets)
    for transform in (lambda x: x / 64 - 3, lambda x: x**3, lambda x: np.exp(x / 8), lambda x: (x - 20) / 8):
        assert (average_precision(transform(scores), targets) == ap).all()


@property_test
@given(cases())
def test_perfect_scores(case):
    targets = case[1]
    scores = np.where(targets == 1, 0.9, 0.1)
    metrics = multilabel_metrics(scores, targets)
    present = (targets == 1).any(axis=0)
    assert (metrics['per_class_ap'] == np.where(present, 100, 0)).all()
    assert metrics['CP'] == metrics['CR'] == pytest.approx(100 * present.mean())
    if present.any():
        assert metrics['mAP_present'] == metrics['OP'] == metrics['OR'] == metrics['OF1'] == 100


# logits of these whole numbers / 4 have distinct probabilities in float32
@property_test
@given(cases(scores=(-32, 32)), st.lists(st.integers(0, 12)), st.data())
def test_batches_equal_one_shot(case, cuts, data):
    logits, targets = torch.from_numpy(case[0]).float() / 4, torch.from_numpy(case[1])
    threshold = data.draw(hnp.arrays(np.float64, logits.shape[1], elements=st.sampled_from([0.2, 0.5, 0.7])))
    evaluator = MultiLabelEvaluator(threshold=threshold)
    bounds = sorted({0, len(logits), *(min(cut, len(logits)) for cut in cuts)})
    with torch.inference_mode():
        for start, stop in zip(bounds, bounds[1:]):
            evaluator.update(logits[start:stop], targets[start:stop])
    metrics = evaluator.compute()
    expected = multilabel_metrics(logits.sigmoid(), targets, threshold)
    # logits rank: equal ones may differ in the last bit of their probability, by their place in a vector instruction
    ranking = multilabel_metrics(logits, targets)
    expected |= {name: ranking[name] for name in ('mAP', 'mAP_present')}
    assert metrics.pop('loss') == evaluator.summary()['loss']
    assert metrics == {name: expected[name] for name in metrics}
    rows, known, positions = evaluator.gathered
    assert (rows == logits.numpy()).all() and (known == case[1]).all() and positions.tolist() == list(range(len(rows)))


# --- the evaluator


def test_loss_over_known_targets():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 5, generator=generator) * 4
    targets = torch.randint(-1, 2, (30, 5), generator=generator).float()
    evaluator = MultiLabelEvaluator()
    assert evaluator.summary() == {'loss': 0}
    for batch in zip(logits.split(7), targets.split(7)):
        evaluator.update(*batch)
    known = targets >= 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[known].double(), targets[known].double())
    assert evaluator.compute()['loss'] == pytest.approx(expected.item(), rel=1e-12)
    evaluator.reset()
    evaluator.update(logits, torch.full_like(targets, -1))
    assert evaluator.compute() == dict.fromkeys(MultiLabelEvaluator.metric_names, 0)


def test_names():
    evaluator = MultiLabelEvaluator()
    evaluator.update(torch.zeros(1, 2), torch.ones(1, 2))
    metrics = evaluator.compute()
    assert tuple(metrics) == evaluator.metric_names and evaluator.default_metric in metrics
    assert tuple(metrics)[:5] == ('loss', 'mAP', 'mAP_present', 'CF1', 'OF1')
    assert all(type(value) is float for value in metrics.values())


def test_logits_rank():
    """Probabilities of large logits are all 1 in float32."""
    evaluator = MultiLabelEvaluator()
    evaluator.update(torch.tensor([[50.0], [40.0], [30.0]]), torch.tensor([[1], [0], [0]]))
    assert evaluator.compute()['mAP'] == 100


@pytest.mark.parametrize('threshold', [torch.tensor(0.7), torch.tensor([0.7, 0.2]), torch.tensor([0.7, 0.2]).double()])
def test_threshold_of_the_evaluator_as_a_tensor(threshold):
    metrics = []
    for form in (threshold, threshold.numpy()):
        evaluator = MultiLabelEvaluator(threshold=form)
        evaluator.update(torch.tensor([[0.5, -0.5]]), torch.ones(1, 2))
        metrics.append(evaluator.compute())
    assert metrics[0] == metrics[1] and metrics[0]['OR'] == (50 if threshold.ndim else 0)


def test_dropped_rows_and_padding():
    nan = float('nan')
    logits = torch.tensor([[2.0, 1.0], [nan, nan], [-1.0, 3.0], [9.0, 9.0]])
    targets = torch.tensor([[1.0, 0.0], [nan, nan], [-1.0, 1.0], [0.0, 0.0]])
    given = targets.clone()
    evaluator = MultiLabelEvaluator(max_samples=3)  # the dropped row is one of the three
    evaluator.update(logits, targets)
    assert torch.equal(targets.isnan(), given.isnan())
    kept = MultiLabelEvaluator()
    kept.update(logits[[0, 2]], targets[[0, 2]])
    assert evaluator.compute() == kept.compute()
    assert evaluator.gathered[2].tolist() == [0, 2]


# --- edge cases and bad input


def test_nothing_is_nan():
    zeros = {name: 0 for name in ('mAP', 'mAP_present', *FIGURES, *TOP3_FIGURES)}
    for scores, targets in (([[0.1, 0.2]], [[0, 0]]), ([[0.1, 0.2]], [[-1, -1]]), ([[0.9, 0.9]], [[-1, 0]])):
        metrics = multilabel_metrics(scores, targets)
        assert metrics.pop('per_class_ap').tolist() == [0, 0]
        assert metrics == zeros


def test_gated_and_plain_top3():
    scores = np.array([[0.9, 0.8, 0.7, 0.7, 0.1], [0.6, 0.4, 0.3, 0.2, 0.1]])
    ones = np.ones_like(scores)
    assert multilabel_metrics(scores, ones)['OR_top3'] == 50  # 4, of which 2 tie, and 1
    assert multilabel_metrics(scores, ones, topk_gated=False)['OR_top3'] == 60  # 3 and 3
    assert multilabel_metrics(scores, ones, topk=1)['OR_top1'] == 20
    assert multilabel_metrics(scores[:, :2], ones[:, :2], topk_gated=False)['OR_top3'] == 100
    ties = np.random.default_rng(0).choice([0.25, 0.75], (20, 80))
    high = ties > 0.5
    first = high & (high.cumsum(axis=1) <= 3)
    assert multilabel_metrics(ties, first)['OR_top3'] == 100 > multilabel_metrics(ties, first)['OP_top3']
    assert multilabel_metrics(ties, first, topk_gated=False)['OP_top3'] == 100


def test_thresholds():
    scores, targets = np.array([[0.7, 0.5], [0.2, 0.5]], np.float32), np.array([[1, 1], [1, 1]])
    assert multilabel_metrics(scores, targets)['OR'] == 75  # reaching it is enough
    assert multilabel_metrics(scores, targets, threshold=[0.2, 0.6])['OR'] == 50
    assert multilabel_metrics(scores, targets, threshold=0.7)['OR'] == 25  # the float32 next to .7 is below it
    assert multilabel_metrics(scores, targets, threshold=torch.tensor([0.7, 0.5]))['OR'] == 75


def test_input_types():
    scores, targets = torch.tensor([[0.25, 0.75], [0.5, 0.125]]), torch.tensor([[0, 1], [1, 0]])
    expected = multilabel_metrics(scores, targets)
    for s in (scores.half(), scores.bfloat16(), scores.double(), scores.numpy(), scores.clone().requires_grad_()):
        for t in (targets.bool(), targets.float(), targets.numpy().astype(np.uint8), targets.tolist()):
            metrics = multilabel_metrics(s, t)
            assert metrics.keys() == expected.keys()
            assert all(np.array_equal(metrics[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(targets=np.zeros((3, 3))), r'got \(3, 2\) and \(3, 3\)'),
        (dict(scores=np.zeros(3), targets=np.zeros(3)), r'got \(3,\) and \(3,\)'),
        (dict(scores=np.zeros((0, 2)), targets=np.zeros((0, 2))), r'Nothing to evaluate.*\(0, 2\)'),
        (dict(scores=[[0, 1], [1, np.nan], [np.nan, 0]]), 'nan, first in row 1, column 1'),
        (dict(targets=[[0, 1], [1, 0], [2, 0]]), 'got 2 in row 2, column 0'),
        (dict(targets=[[0, 1], [np.nan, 0], [1, 0]]), 'got nan in row 1, column 0'),
        (dict(threshold=1.0), 'between 0 and 1'),
        (dict(threshold=[0.5, 0]), 'between 0 and 1'),
        (dict(threshold=[0.5, np.nan]), 'between 0 and 1'),
        (dict(threshold=[0.5] * 3), r'2, one per class, got shape \(3,\)'),
        (dict(areas=np.zeros((3, 1))), r'areas must be .* got \(3, 1\)'),
        (dict(topk=0), 'topk must be at least 1, got 0'),
    ],
)
def test_bad_input(kwargs, message):
    kwargs = {'scores': np.full((3, 2), 0.5), 'targets': np.zeros((3, 2)), **kwargs}
    with pytest.raises(ValueError, match=message) as error:
        multilabel_metrics(**kwargs)
    assert '\n' not in str(error.value)


def test_bad_input_of_the_evaluator():
    for threshold in (0, 1.5, [[0.5]]):
        with pytest.raises(ValueError, match='threshold must'):
            MultiLabelEvaluator(threshold=threshold)
    logits = torch.zeros(3, 2)
    with pytest.raises(ValueError, match='got shape'):
        MultiLabelEvaluator(threshold=[0.5] * 3).update(logits, logits)
    evaluator = MultiLabelEvaluator()
    with pytest.raises(ValueError, match='Nothing to evaluate'):
        evaluator.compute()
    for target in (torch.zeros(3, 3), torch.zeros(3, dtype=torch.long)):
        with pytest.raises(ValueError, match=r'must both be \(images, classes\)'):
            evaluator.update(logits, target)
    for value in (0.5, -2, float('nan')):
        target = torch.zeros(3, 2)
        target[1, 1] = value
        with pytest.raises(ValueError, match=f'got {float(value)} in row 1, column 1 of a batch'):
            evaluator.update(logits, target)
    for value in ('nan', 'inf', '-inf'):
        evaluator.reset()
        evaluator.update(torch.tensor([[0.0, 0.0], [0.0, float(value)]]), torch.zeros(2, 2))
        with pytest.raises(ValueError, match='scores have nan or inf, first in row 1, column 1'):
            evaluator.compute()
