"""Evaluation of a model on a data set, called from Python."""

import os
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked import fork
from torch import nn

import timm
from timm.data import create_transform, resolve_model_data_config

from gkgnet_timm.data import BadImageError, open_split
from gkgnet_timm.evaluation.evaluate import evaluate_dataset
from gkgnet_timm.inference.device import autocast_context
from gkgnet_timm.inference.predictor import class_names_of, compute_logits
from gkgnet_timm.metrics import multilabel_metrics


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=3)


def test_images_that_cannot_be_read(model, coco_folder):
    """They are listed and in no figure, while the areas of objects stay with their images."""
    broken = coco_folder / 'val' / '005.png'
    broken.write_bytes(b'no image')
    whole = open_split('coco', coco_folder, 'val', verbose=False)
    with pytest.raises(BadImageError, match='005.png'):
        evaluate_dataset(model, whole, workers=0, device='cpu')
    dataset = open_split('coco', coco_folder, 'val', bad_images=os.devnull, verbose=False)
    evaluation = evaluate_dataset(model, dataset, workers=0, device='cpu', batch_size=3, threshold=[0.4, 0.5, 0.6])
    assert evaluation.unreadable == [str(broken)] and evaluation.files == ['003.png', '007.png', '009.png']
    assert evaluation.class_names == dataset.class_names and evaluation.scores.dtype == np.float64
    kept = [i for i in range(4) if dataset.filename(i) in evaluation.files]
    assert np.array_equal(evaluation.targets, dataset.targets()[kept])
    whole.transform = create_transform(**resolve_model_data_config(model))
    with torch.inference_mode():
        logits = model(torch.stack([whole[i][0] for i in kept])).double()
    assert evaluation.scores == pytest.approx(logits.sigmoid().numpy(), abs=1e-5)
    expected = multilabel_metrics(
        evaluation.scores, evaluation.targets, [0.4, 0.5, 0.6], areas=dataset.reader.areas[kept]
    )
    del expected['per_class_ap']
    assert {name: evaluation.metrics[name] for name in expected} == pytest.approx(expected)


def test_loop():
    """The mirror image counts as much as the image, and what comes with images is passed on."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).train()
    batches = [(torch.randn(5, 3, 2, 2), 'first'), (torch.randn(1, 3, 2, 2), 'second')]
    autocast = autocast_context(torch.device('cpu'), amp=False)
    plain, flipped = (list(compute_logits(model, batches, autocast, flip=flip)) for flip in (False, True))
    assert [other for _, other in plain] == ['first', 'second'] and not model.training
    for (images, _), (one, _), (both, _) in zip(batches, plain, flipped):
        assert torch.equal(one, model(images))
        assert torch.allclose(both, (model(images) + model(images.flip(-1))) / 2)
    model[1].bfloat16()
    with_amp = autocast_context(torch.device('cpu'), amp=True)
    assert all(logits.dtype == torch.float32 for logits, _ in compute_logits(model, batches, with_amp))


def test_class_names_of(model):
    assert class_names_of(model) == ['class 0', 'class 1', 'class 2']
    model.pretrained_cfg = dict(model.pretrained_cfg, label_names=('a', 'b', 'c'))
    assert class_names_of(model) == ['a', 'b', 'c']
    model.pretrained_cfg['label_names'] = ['a']
    assert class_names_of(model) == ['class 0', 'class 1', 'class 2']


def evaluate_in_ranks(rank, model, dataset, folder):
    """The second rank fails with the first of two models."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2)
    options = dict(workers=0, device='cpu', batch_size=1)
    broken = nn.Identity() if rank == 1 else timm.create_model('test_resnet', num_classes=3)
    broken.pretrained_cfg = model.pretrained_cfg
    expected = (
        (ValueError, 'logits and target') if rank == 1 else (RuntimeError, 'Process 1 failed: .*logits and target')
    )
    with pytest.raises(expected[0], match=expected[1]):
        evaluate_dataset(broken, dataset, **options)
    evaluation = evaluate_dataset(model, dataset, **options)
    torch.save(evaluation.metrics, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_rank_that_fails_does_not_go_on_alone(model, coco_folder, tmp_path):
    """It fails in all, so rows of the next model are not taken for those of this one."""
    dataset = open_split('coco', coco_folder, 'val', verbose=False)
    expected = evaluate_dataset(model, dataset, workers=0, device='cpu', batch_size=1).metrics
    processes = [fork(partial(evaluate_in_ranks, rank, model, dataset, tmp_path)) for rank in range(2)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    assert [torch.load(tmp_path / f'{rank}.pt', weights_only=False) for rank in range(2)] == [expected] * 2
