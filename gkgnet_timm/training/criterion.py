"""The loss of a training run."""

from dataclasses import replace
from typing import Optional, Tuple, Union

import torch
import torch.nn as nn

from timm.loss import create_classification_loss, resolve_class_weights

from ..loss import GKGNetLoss, KnownLoss
from ..weights.load import architecture_of
from .config import TrainConfig

__all__ = ['check_loss', 'choose_loss', 'create_criterion']

_KNOBS = ('bce_sum', 'asl_gamma_pos', 'asl_gamma_neg', 'asl_clip', 'asl_reduction', 'poly_epsilon', 'poly_gamma')
_KNOBS += ('poly_alpha', 'twoway_tp', 'twoway_tn', 'db_neg_scale', 'db_init_bias', 'db_focal_gamma')


def _class_weights(
    config: TrainConfig, kind: str, num_classes: int, class_counts: Optional[Tuple[torch.Tensor, int]]
) -> Union[None, float, torch.Tensor]:
    """The weights of a kind, 'class_weight' or 'pos_weight': one for all classes or one for each."""
    name = f'loss_{kind}'
    value = getattr(config, name)
    try:
        weights = resolve_class_weights(
            value,
            kind,
            class_counts,
            power=config.loss_weight_power,
            beta=config.loss_weight_beta,
            max_weight=config.loss_weight_max,
        )
        if isinstance(weights, torch.Tensor) and len(weights) != num_classes:
            raise ValueError(f'{len(weights)} weights for {num_classes} classes')
    except ValueError as error:
        raise ValueError(f'--{name.replace("_", "-")} {value!r}: {error}') from error
    return weights


def choose_loss(config: TrainConfig) -> TrainConfig:
    """The published loss for label graphs, whatever folder or repository they are in, else that of timm."""
    default = 'gkgnet' if architecture_of(config.model).startswith('gkgnet') else 'bce'
    return replace(config, loss=config.loss or default)


def check_loss(config: TrainConfig) -> None:
    """Raise a ValueError that names the first flag that the loss has no use for."""
    for name in ('smoothing', 'loss_class_weight', 'loss_pos_weight'):
        if config.loss == 'gkgnet' and getattr(config, name):
            raise ValueError(
                f'--{name.replace("_", "-")} is for the losses of timm, --loss gkgnet has its own smoothing and no '
                'weights: give --loss asl or bce, or --oversample-thr F against imbalance.'
            )


def create_criterion(
    config: TrainConfig, num_classes: int, class_counts: Optional[Tuple[torch.Tensor, int]] = None
) -> nn.Module:
    """The published loss, or one of timm's over the labels that are known.

    Args:
        config: Field `loss` and those of timm's losses.
        num_classes: L.
        class_counts: Images with each class (L,) and the number of images, for weights by frequency and 'db'.

    Raises:
        ValueError: If fields contradict each other.
    """
    config = choose_loss(config)
    check_loss(config)
    if config.loss == 'gkgnet':
        return GKGNetLoss()
    weights = {kind: _class_weights(config, kind, num_classes, class_counts) for kind in ('class_weight', 'pos_weight')}
    counts = dict(zip(('class_counts', 'num_samples'), class_counts or ())) if config.loss == 'db' else {}
    compares_logits = config.loss in ('twoway', 'zlpr')
    loss = create_classification_loss(
        config.loss,
        multi_label=True,
        smoothing=config.smoothing,
        # these two take binary targets only; the others are smoothed here, after mixing
        soft_targets=compares_logits and bool(config.mixup or config.cutmix),
        **{name: getattr(config, name) for name in _KNOBS},
        **weights,
        **counts,
    )
    if compares_logits:
        return KnownLoss(loss, None)
    reduction = loss.reduction
    if config.loss == 'bce':
        reduction, loss.sum_classes = 'batchmean' if config.bce_sum else 'mean', False
    loss.reduction = 'none'
    return KnownLoss(loss, reduction)
