"""A program of a user with the public names, as README and docs have them: `.ci/types` checks it by mypy --strict.

It is not run: `assert_type` fails where a type checker sees another type than the one that is named.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from typing_extensions import assert_type

import timm

import gkgnet_timm
from gkgnet_timm.data import (
    Decoder,
    MultiLabelDataset,
    create_dataset,
    create_train_loader,
    create_train_transform,
    find_images,
    open_split,
    start_epoch,
)
from gkgnet_timm.evaluation.evaluate import Evaluation, evaluate_dataset, evaluate_scores
from gkgnet_timm.explanation.causal import Effect, conclude, measure
from gkgnet_timm.explanation.result import Chosen, Explanation
from gkgnet_timm.export.report import ExportedFile
from gkgnet_timm.graph import interleave_max_relative, knn_neighbors
from gkgnet_timm.label_rows import init_labels_by_name
from gkgnet_timm.loss import GKGNetLoss, KnownLoss
from gkgnet_timm.metrics import MultiLabelEvaluator, average_precision, chance_level, multilabel_metrics
from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.training.run import train


def models(images: torch.Tensor) -> None:
    model = timm.create_model('gkgnet_576', num_classes=80)
    assert isinstance(model, (gkgnet_timm.GkgNet, gkgnet_timm.GkgNetBackbone))
    graph = model.forward_graph(images, patches=True)
    assert_type(graph, gkgnet_timm.LabelGraph)
    assert_type(graph.logits, torch.Tensor)
    assert_type(graph.neighbors[0][-1], torch.Tensor)
    assert_type(graph.patch_neighbors, Optional[List[List[torch.Tensor]]])
    assert_type(model.num_classes, int)
    small = gkgnet_timm.GkgNet(img_size=(224, 448), num_classes=20, device='cpu', dtype=torch.float64)
    small.reset_classifier(8)
    small.set_input_size(448)
    assert_type(small.get_classifier(), Tuple[nn.Module, ...])
    assert_type(gkgnet_timm.PyramidVig().forward_features(images), torch.Tensor)
    assert_type(gkgnet_timm.Vig(num_classes=0).head_hidden_size, int)
    assert_type(gkgnet_timm.__version__, str)


def graph_operations(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    neighbors = knn_neighbors(x, y, k=9, num_groups=2)
    assert_type(neighbors, torch.Tensor)
    return interleave_max_relative(x, y, neighbors)


def predict(folder: Path) -> Dict[str, List[str]]:
    model = gkgnet_timm.load_model('output/train/first/model_best.pth.tar', img_size=448)
    assert_type(model, nn.Module)
    names = gkgnet_timm.class_names_of(model)
    assert_type(names, List[str])
    rows = gkgnet_timm.predict_images(model, folder, batch_size=8, amp=True)
    assert_type(rows, Iterator[Tuple[str, np.ndarray, str]])
    found = {}
    for file, scores, error in rows:
        assert_type(error, str)
        found[file] = [] if error else [name for name, score in zip(names, scores) if score >= 0.5]
    gkgnet_timm.predict_images(model, find_images(['s3://bucket/photos']), find=False, workers=0, bit_depth=12)
    return found


def explain(model: nn.Module) -> None:
    explanation = gkgnet_timm.explain(model, 'a.jpg', labels=['dog', 'person'])
    assert_type(explanation, Explanation)
    gkgnet_timm.explain(model, Image.new('RGB', (64, 64)), patch=(13, 18))
    explanation.draw().savefig('why.png')
    assert_type(explanation.to_json(), List[Dict[str, Any]])
    assert_type(explanation.overlay('dog', side=224), Image.Image)
    assert_type(explanation.patches, List[Chosen])
    assert_type(explanation.patches[0].label, Optional[str])
    assert_type(explanation.labels[0].score, float)
    assert_type(explanation.grids[0].cell, Tuple[float, float])
    assert_type(explanation.frame.part, List[float])
    effects = measure(model, explanation, draws=20)
    assert_type(effects, List[Effect])
    print(*conclude(effects), sep='\n')


def export(model: nn.Module) -> None:
    files = gkgnet_timm.export_model(model, 'deployed', formats=['onnx'], half=True)
    assert_type(files, List[ExportedFile])
    assert_type(files[0].path, Path)
    assert_type(files[0].difference.is_right, bool)


def data() -> None:
    dataset = open_split('csv', 'photos', 'train.csv', part='train', bit_depth=12, ignore_case=True)
    assert_type(dataset, Union[MultiLabelDataset, Any])
    assert isinstance(dataset, MultiLabelDataset)
    assert_type(dataset.class_names, List[str])
    assert_type(dataset.targets(), np.ndarray)
    assert_type(dataset.read_image(0), Optional[Image.Image])
    assert_type(create_dataset('coco', Path('coco'), 'val2014'), Union[MultiLabelDataset, Any])
    transform = create_train_transform((448, 448), cropmix=0.5, reprob=0.5, auto_augment='trivial')
    config = dict(mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, 448, 448))
    loader = create_train_loader(dataset, config, transform, 16, torch.device('cpu'), num_workers=2)
    start_epoch(loader, seed=0, epoch=1, rank=0)
    assert_type(Decoder(background='#808080').mode, str)


def training() -> None:
    config = TrainConfig('demo', model='gkgnet_ti_224', img_size=64, epochs=6, lr=1e-3, experiment='first')
    assert_type(config.img_size, Optional[int])
    assert_type(config.val_split, Optional[str])
    assert_type(config.decay_milestones, List[int])
    assert_type(config.amp, Union[bool, str])
    metrics = train(config)
    assert_type(metrics, Dict[str, float])


def evaluation(model: nn.Module) -> None:
    result = evaluate_dataset(model, open_split('demo', split='val'), flip=True, threshold=[0.5] * 8)
    assert_type(result, Evaluation)
    assert_type(result.metrics['mAP'], float)
    assert_type(result.scores, np.ndarray)
    assert_type(evaluate_scores('scores.npz', 'thresholds.json').files, List[str])


def metrics(scores: np.ndarray, targets: torch.Tensor) -> float:
    assert_type(multilabel_metrics(scores, targets, threshold=0.5), Dict[str, Any])
    assert_type(average_precision(scores, targets), np.ndarray)
    evaluator = MultiLabelEvaluator('cuda', max_samples=100, threshold=[0.5, 0.4])
    evaluator.update(targets, targets)
    assert_type(evaluator.compute(), Dict[str, float])
    return chance_level(targets.numpy())


def losses(model: nn.Module, logits: torch.Tensor, target: torch.Tensor) -> None:
    assert_type(GKGNetLoss().terms(logits, target), Tuple[torch.Tensor, torch.Tensor])
    KnownLoss(nn.BCEWithLogitsLoss(reduction='none'), 'mean')(logits, target).backward()
    assert_type(init_labels_by_name(model, ['dog', 'cat']), List[str])
