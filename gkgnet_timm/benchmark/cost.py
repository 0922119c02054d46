"""What models cost on any machine: parameters, multiply-adds and activations, counted without weights."""

import math
from typing import Any, Dict, List, Optional, Sequence

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

import timm
from timm.layers.ml_decoder import add_ml_decoder_head

from ..runtime import one_line
from ..weights.source import MODULES
from .case import create_timm_model
from .floor import run_on_shapes

__all__ = ['OTHERS', 'benchmark_cost', 'count_cost']

ML_DECODER = ' + ML-Decoder'
OTHERS = ('resnet101', 'tresnet_l', f'tresnet_l{ML_DECODER}')  # what users would pick instead
OTHERS_SIZE = 448  # at which they are published


def _size_of_output(*args: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
    return math.prod(out_shape)


def _create(name: str, img_size: int, num_classes: int) -> nn.Module:
    trunk = name.removesuffix(ML_DECODER)
    model = create_timm_model(trunk, img_size, num_classes)
    if trunk != name:
        model = add_ml_decoder_head(model)
        # the only layer of a TransformerDecoder, whose forward asks for an attribute that timm's layer does not have
        (model.head.decoder,) = model.head.decoder.layers
    return model


def count_cost(name: str, img_size: int, num_classes: int) -> Dict[str, Any]:
    """Count what a model costs per image, without a weight in memory.

    Args:
        name: A timm model, or 'NAME + ML-Decoder' for a TResNet with that head.
        img_size: Side of the images.
        num_classes: Classes of the model.

    Returns:
        A row: these three, parameters, multiply-adds with those of the kNN product, and activations as timm counts
        them: the values that convolutions and linear layers return.

    Raises:
        ValueError: If it does not run on tensors without values.
    """
    aten = torch.ops.aten
    multiply_adds = FlopCounterMode(display=False)
    layers = dict.fromkeys((aten.convolution, aten.addmm, aten.mm), _size_of_output)
    activations = FlopCounterMode(display=False, custom_mapping=layers)
    with torch.device('meta'):
        model = _create(name, img_size, num_classes)
    try:
        batch_size = run_on_shapes(model, img_size, activations, multiply_adds)
    except Exception as error:  # whatever a timm model raises for tensors without values
        raise ValueError(f'{name!r} cannot be counted at {img_size} px: {one_line(error)}') from error
    counts = activations.get_flop_counts()['Global']
    return dict(
        model=name,
        img_size=img_size,
        num_classes=num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=multiply_adds.get_total_flops() // (2 * batch_size),
        activations=sum(counts.get(layer, 0) for layer in layers) // batch_size,
    )


def benchmark_cost(
    models: Sequence[str] = (),
    compare: Sequence[str] = (),
    img_sizes: Optional[Sequence[int]] = None,
    num_classes: Optional[int] = None,
) -> List[Dict[str, Any]]:
    """Count what models cost, at their own sizes and with their own classes unless others are given.

    Args:
        models: Models of this package (default: all).
        compare: Other models, at 448 px with 80 classes (default: what users would pick instead).
        img_sizes: Sides of the images.
        num_classes: Classes of the models.
    """
    rows = []
    for name in models or timm.list_models(module=MODULES):
        cfg = timm.get_pretrained_cfg(name)
        sizes = img_sizes or [cfg.input_size[-1]]
        rows += [count_cost(name, size, num_classes or cfg.num_classes) for size in sizes]
    for name in compare or OTHERS:
        rows += [count_cost(name, size, num_classes or 80) for size in img_sizes or [OTHERS_SIZE]]
    return rows
