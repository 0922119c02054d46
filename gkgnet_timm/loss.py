"""The published training loss of GKGNet, and timm's multi-label losses for targets that are partly unknown."""

import argparse
from typing import Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm.loss import MULTI_LABEL_LOSS_TYPES, create_classification_loss, resolve_class_weights

__all__ = ['GKGNetLoss', 'KnownLoss', 'create_loss']

LOSSES = ('gkgnet', *MULTI_LABEL_LOSS_TYPES)


class GKGNetLoss(nn.Module):
    """Smoothed binary cross-entropy + 10 x asymmetric loss, both summed over classes and averaged over images.

    In timm's terms BinaryCrossEntropy(smoothing=0.2), which makes targets 0.1 and 0.9, plus
    AsymmetricLossMultiLabel(gamma_neg=2, gamma_pos=0, clip=0.05), which timm computes in float32 whatever it is given.
    The loss of a perfect fit is not 0: with 80 classes and 3 labels an image it is about 27.
    """

    SMOOTHING = 0.1
    ASYMMETRIC_WEIGHT = 10.0
    CLIP = 0.05
    EPS = 1e-8

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """The two summands of the loss.

        Args:
            logits: (B, L). Anything below float32 is raised to it.
            target: (B, L), 1 for a label and 0 for none, or in between for mixed images. Entries below 0 and nan are
                unknown: they have neither loss nor gradient.
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        known = target >= 0
        target = target.where(known, 0)
        low = torch.full_like(target, self.SMOOTHING, dtype=torch.float32)  # of float32, as published
        soft = low.lerp(1 - low, target.float()).to(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, soft, reduction='none')

        p = logits.sigmoid()
        q = (1 - p + self.CLIP).clamp(max=1)  # nothing to gain from a negative below the margin
        of_positive = -p.clamp(min=self.EPS).log()
        of_negative = -q.clamp(min=self.EPS).log() * (1 - q) ** 2
        asymmetric = of_positive * target + of_negative * (1 - target)
        bce, asymmetric = (term.where(known, 0).sum() / len(logits) for term in (bce, asymmetric))
        return bce, self.ASYMMETRIC_WEIGHT * asymmetric

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        bce, asymmetric = self.terms(logits, target)
        return bce + asymmetric


class KnownLoss(nn.Module):
    """A multi-label loss of timm over the known targets: those below 0 and nan have neither loss nor gradient.

    Args:
        loss: Loss of elements, with `reduction='none'`, or one that compares the logits of a batch with each other.
        reduction: Of the elements that are known: 'mean', 'sum', or 'batchmean', the sum over classes and mean over
            images. None for a loss that reduces by itself.
    """

    EXCLUDED = -1e4  # logit of which nothing is left in a log-sum-exp, whatever the target

    def __init__(self, loss: nn.Module, reduction: Optional[str]):
        super().__init__()
        self.loss = loss
        self.reduction = reduction

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        known = target >= 0
        target = target.where(known, 0)
        if self.reduction is None:
            return self.loss(logits.where(known, self.EXCLUDED), target)
        loss = self.loss(logits, target).where(known, 0).sum()
        if self.reduction == 'mean':
            return loss / known.sum().clamp(min=1)
        return loss / len(logits) if self.reduction == 'batchmean' else loss


def _weights(
    args: argparse.Namespace, kind: str, num_classes: int, class_counts: Optional[Tuple[torch.Tensor, int]]
) -> Union[None, float, torch.Tensor]:
    """The value of flag `loss_{kind}`, one for all classes or one for each."""
    value = getattr(args, f'loss_{kind}')
    try:
        weights = resolve_class_weights(
            value,
            kind,
            class_counts,
            power=args.loss_weight_power,
            beta=args.loss_weight_beta,
            max_weight=args.loss_weight_max,
        )
        if isinstance(weights, torch.Tensor) and len(weights) != num_classes:
            raise ValueError(f'{len(weights)} weights for {num_classes} classes')
    except ValueError as error:
        raise ValueError(f'--loss-{kind.replace("_", "-")} {value!r}: {error}') from error
    return weights


def create_loss(
    args: argparse.Namespace, num_classes: int, class_counts: Optional[Tuple[torch.Tensor, int]] = None
) -> nn.Module:
    """The loss of the training flags.

    Args:
        args: Flags `loss` and those of timm's losses.
        num_classes: L.
        class_counts: Images with each class (L,), and of how many images, for weights by frequency and 'db'.

    Raises:
        ValueError: If flags contradict each other.
    """
    weighted = args.loss_class_weight is not None or args.loss_pos_weight is not None
    if args.loss == 'gkgnet':
        if args.smoothing or weighted:
            raise ValueError('--loss gkgnet has its own smoothing and no weights, these flags are for timm losses.')
        return GKGNetLoss()
    weights = {kind: _weights(args, kind, num_classes, class_counts) for kind in ('class_weight', 'pos_weight')}
    knobs = ('bce_sum', 'asl_gamma_pos', 'asl_gamma_neg', 'asl_clip', 'asl_reduction', 'poly_epsilon', 'poly_gamma')
    knobs += ('poly_alpha', 'twoway_tp', 'twoway_tn', 'db_neg_scale', 'db_init_bias', 'db_focal_gamma')
    counts = dict(zip(('class_counts', 'num_samples'), class_counts or ())) if args.loss == 'db' else {}
    loss = create_classification_loss(
        args.loss,
        multi_label=True,
        smoothing=args.smoothing,
        # the others are smoothed here, behind the mixing; these take binary targets only
        soft_targets=args.loss in ('twoway', 'zlpr') and bool(args.mixup or args.cutmix),
        **{name: getattr(args, name) for name in knobs},
        **weights,
        **counts,
    )
    if args.loss in ('twoway', 'zlpr'):
        return KnownLoss(loss, None)
    reduction = loss.reduction
    if args.loss == 'bce':
        reduction, loss.sum_classes = 'batchmean' if args.bce_sum else 'mean', False
    loss.reduction = 'none'
    return KnownLoss(loss, reduction)
