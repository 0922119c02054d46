"""Run a model on an image and say which patches its labels, or a patch, chose."""

import difflib
import operator
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn

from ..inference.device import autocast_context, check_device
from ..inference.predictor import class_names_of, probabilities
from ..layers.image_size import STRIDE
from ..models._edges import Edges, blocks_of_layers, recorded_edges
from .frame import Box, Frame
from .result import Chosen, Explanation, Grid, Label
from .seen import ImageSource, evaluating, see

__all__ = ['explain', 'has_label_graph', 'has_patch_graph']


def has_label_graph(model: nn.Module) -> bool:
    """Whether a model has label nodes that choose patches."""
    return hasattr(model, 'forward_graph') and model.num_classes > 0


def _named(names: Optional[Sequence[str]], model: nn.Module) -> List[str]:
    names = class_names_of(model) if names is None else list(names)
    if len(names) != model.num_classes:
        raise ValueError(f'class_names has {len(names)} names, the model has {model.num_classes} classes.')
    return names


def has_patch_graph(model: nn.Module) -> bool:
    """Whether the patches of a model have neighbours, so that one can be explained."""
    return hasattr(getattr(model, 'backbone', model), 'layers_with_maps')


def explain(
    model: nn.Module,
    image: ImageSource,
    *,
    labels: Union[None, str, int, Sequence[Union[str, int]]] = None,
    topk: Optional[int] = None,
    patch: Optional[Tuple[int, int]] = None,
    stages: Optional[Sequence[int]] = None,
    threshold: Union[None, float, Sequence[float]] = None,
    class_names: Optional[Sequence[str]] = None,
    device: Union[None, str, torch.device] = None,
    amp: bool = False,
    amp_dtype: str = 'bfloat16',
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
) -> Explanation:
    """Say where the labels of an image looked: the patches that each chose in every stage and channel group.

    Of a stage with several label blocks, the choices are those of the last one.

    Args:
        model: Model with a label graph; for a patch also a Pyramid ViG or ViG.
        image: File, or an image of Pillow.
        labels: Names or indices of classes (default: those whose score reaches the threshold, or else the best one).
        topk: In place of labels: as many of the highest score.
        patch: In place of labels: row and column, from 0, in the map of the first stage.
        stages: Stages to take, from 1 (default: all; of a ViG, whose blocks they are, four).
        threshold: Lowest score of a label, or one for each class (default: those of the weights, else 0.5).
        class_names: Names of the classes (default: those of the weights).
        device: Where the model runs. It is moved there (default: where it is).
        amp: Use automatic mixed precision.
        amp_dtype: 'bfloat16' or 'float16'.
        bit_depth: See `Decoder`, as background and max_pixels (default: as in the training of the model).

    Raises:
        BadImageError: If the image cannot be read.
        ValueError: If the model has no such graph, there is no such label, patch or stage, or scores are not finite.
    """
    if sum(choice is not None for choice in (labels, topk, patch)) > 1:
        raise ValueError('Give one of labels, topk and patch.')
    if patch is None and not has_label_graph(model):
        raise ValueError(
            f'{type(model).__name__} with {getattr(model, "num_classes", "unknown")} classes has no label graph to '
            'explain: take a GKGNet, or gkgnet_backbone with any timm model.'
        )
    if device is not None:
        model.to(check_device(device))
    names = _named(class_names, model)
    thresholds = _thresholds(model, threshold, len(names))
    layers = blocks_of_layers(model) if patch is not None else [stage.blocks for stage in model.label_stages]
    kept = _check_stages(stages, layers, patch)
    seen = see(model, image, bit_depth=bit_depth, background=background, max_pixels=max_pixels)
    blocks = [layers[i][-1] for i in kept]
    autocast = autocast_context(seen.pixels.device, amp, amp_dtype)
    with evaluating(model), autocast(), recorded_edges([layers[0][-1], *blocks]) as recorded:
        scores = probabilities(model(seen.pixels)[0].float().cpu().numpy())
        if not np.isfinite(scores).all():
            raise ValueError(
                f'Scores of {seen.file!r} are not finite: broken weights, or an overflow of half precision.'
            )
        edges = [recorded[block] for block in blocks]
        infos = (model if patch is None else getattr(model, 'backbone', model)).feature_info
        strides, size = [infos[i]['reduction'] for i in kept], seen.pixels.shape[2:]
        grids = [
            Grid(i + 1, *of_block.grid, _cell(size, of_block.grid, stride * of_block.pooling))
            for i, of_block, stride in zip(kept, edges, strides)
        ]
        of_image = dict(file=seen.file, image=seen.image, model=model.pretrained_cfg.get('architecture', ''))
        of_image.update(class_names=names, scores=scores, grids=grids, frame=seen.frame)
        if patch is None:
            picked = _pick(scores, names, labels, topk, thresholds)
            nodes, chosen_by = [[index for index, _ in picked]] * len(kept), [label.label for _, label in picked]
        else:
            first = recorded[layers[0][-1]].nodes
            nodes, chosen_by = _nodes_of_patch(patch, first, edges), [None]
            _check_inside(patch, _cell(size, first, infos[0]['reduction']), first, seen.frame)
        by_stage = [_choices(chosen_by, *of_stage, seen.frame) for of_stage in zip(grids, edges, nodes)]
        of_image['patches'] = [chosen for of_node in zip(*by_stage) for of_stage in of_node for chosen in of_stage]
        if patch is None:
            return Explanation(**of_image, labels=[label for _, label in picked])
        cells = [_cell(size, of_block.nodes, stride) for of_block, stride in zip(edges, strides)]
        places = [divmod(node, of_block.nodes[1]) for (node,), of_block in zip(nodes, edges)]
        centers = tuple(_box(*place, cell, seen.frame) for place, cell in zip(places, cells))
        return Explanation(**of_image, labels=[], patch=tuple(patch), centers=centers)


def _check_stages(
    stages: Optional[Sequence[int]], layers: Sequence[Any], patch: Optional[Tuple[int, int]]
) -> List[int]:
    """Return the indices of the stages to show."""
    last = len(layers)
    if stages is None:
        # of the many layers of a ViG, four
        return list(range(last)) if last <= 6 or patch is None else [round((last - 1) * i / 3) for i in range(4)]
    for stage in stages:
        if not 1 <= stage <= last:
            raise ValueError(f'Stage {stage}: the model has stages 1 to {last}.')
    if not stages:
        raise ValueError(f'No stages: give some of 1 to {last}.')
    return sorted({stage - 1 for stage in stages})


def _cell(size: Sequence[int], counts: Sequence[int], stride: float) -> Tuple[float, float]:
    """Height and width of a cell, of as many rows and columns, in the pixels of an image of that height and width."""
    # less than a cell may be left over, and images may be padded; otherwise the map has another stride than is stated
    height, width = (
        float(stride) if abs(n * stride - side) < max(stride, STRIDE) else side / n for side, n in zip(size, counts)
    )
    return height, width


def _thresholds(model: nn.Module, threshold: Union[None, float, Sequence[float]], classes: int) -> np.ndarray:
    of_weights = getattr(model, 'thresholds', None)
    thresholds = np.asarray(of_weights or 0.5 if threshold is None else threshold, dtype=np.float32)
    if thresholds.shape not in ((), (classes,)):
        raise ValueError(
            f'threshold is a number, or one for each of {classes} classes; it has shape {thresholds.shape}.'
        )
    wrong = thresholds[~((0 <= thresholds) & (thresholds <= 1))]
    if wrong.size:
        raise ValueError(f'threshold has to be a score, from 0 to 1, got {wrong.flat[0]:g}.')
    return np.broadcast_to(thresholds, classes)


def _pick(
    scores: np.ndarray,
    names: Sequence[str],
    labels: Union[None, str, int, Sequence[Union[str, int]]],
    topk: Optional[int],
    thresholds: np.ndarray,
) -> List[Tuple[int, Label]]:
    """Indices of the labels to explain, and these."""
    order = np.argsort(-scores, kind='stable')
    if labels is not None:
        labels = [labels] if isinstance(labels, (str, int)) else list(labels)
        if not labels:
            raise ValueError('labels is empty: name some, or leave it out.')
        picked = list(dict.fromkeys(_index(label, names) for label in labels))
    elif topk is not None:
        if topk < 1:
            raise ValueError(f'topk must be at least 1, got {topk}.')
        picked = order[:topk].tolist()
    else:
        picked = order[(scores >= thresholds)[order]].tolist() or order[:1].tolist()
    shown = [names[i] for i in picked]
    if twice := next((name for name in shown if shown.count(name) > 1), None):
        raise ValueError(f'Two classes are named {twice!r}: explain one at a time, by its index.')
    return [(i, Label(names[i], float(scores[i]), float(thresholds[i]))) for i in picked]


def _index(label: Union[str, int], names: Sequence[str]) -> int:
    if not isinstance(label, str):
        label = operator.index(label)
        if 0 <= label < len(names):
            return label
        raise ValueError(f'No class {label}: there are {len(names)}, from 0.')
    if label in names:
        return names.index(label)
    similar = difflib.get_close_matches(label, names, n=1)
    expected = f'{similar[0]!r}?' if similar else f'the classes are {", ".join(names[:8])}{", ..." * (len(names) > 8)}.'
    raise ValueError(f'No class is named {label!r}: {expected}')


def _nodes_of_patch(patch: Tuple[int, int], grid: Tuple[int, int], edges: Sequence[Edges]) -> List[List[int]]:
    """Index of the node of each stage that holds a patch of the first map, which has a grid of these."""
    (row, column), (rows, columns) = map(operator.index, patch), grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(f'Patch {row},{column}: the first map has rows 0 to {rows - 1}, columns 0 to {columns - 1}.')
    nodes = []
    for height, width in (of_stage.nodes for of_stage in edges):
        y, x = row * height // rows, column * width // columns
        nodes.append([y * width + x])
    return nodes


def _check_inside(patch: Tuple[int, int], cell: Tuple[float, float], grid: Tuple[int, int], frame: Frame) -> None:
    """Raise a ValueError for a patch in the padding of an image. Says where the image is."""
    x0, y0, x1, y1 = _box(*patch, cell, frame)
    if x0 < x1 and y0 < y1:
        return
    lines = []
    for name, axis, count in (('rows', 1, grid[0]), ('columns', 0, grid[1])):
        side = cell[1 - axis]
        boxes = ((i, frame.box(*(i * side,) * 2, *((i + 1) * side,) * 2)) for i in range(count))
        inside = [i for i, box in boxes if box[axis] < box[axis + 2]]
        lines.append(f'{name} {inside[0]} to {inside[-1]}')
    raise ValueError(f'Patch {patch[0]},{patch[1]} is in the padding, the image has {" and ".join(lines)}.')


def _box(row: int, column: int, cell: Tuple[float, float], frame: Frame) -> Box:
    height, width = cell
    box = frame.box(column * width, row * height, (column + 1) * width, (row + 1) * height)
    return [round(value, 6) for value in box]


def _choices(
    labels: Sequence[Optional[str]], grid: Grid, edges: Edges, nodes: Sequence[int], frame: Frame
) -> List[List[Chosen]]:
    """The neighbours of each of some nodes in a stage, nearest first in each group."""
    neighbors = edges.neighbors[0, :, nodes].transpose(0, 1).tolist()  # (G, N, k) -> (N, G, k)
    similarity = edges.similarity(nodes)[0].transpose(0, 1).tolist()
    choices = []
    for label, of_label, cosines_of_label in zip(labels, neighbors, similarity):
        choices.append([])
        for group, (indices, cosines) in enumerate(zip(of_label, cosines_of_label), 1):
            for rank, (index, cosine) in enumerate(zip(indices, cosines), 1):
                row, column = divmod(index, grid.columns)
                box = _box(row, column, grid.cell, frame)
                choices[-1].append(Chosen(label, grid.stage, group, rank, row, column, box, round(cosine, 6)))
    return choices
