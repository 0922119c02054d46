"""The published training loss of GKGNet, and timm's multi-label losses for targets that are partly unknown."""

from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ['GKGNetLoss', 'KnownLoss']


class GKGNetLoss(nn.Module):
    """Smoothed binary cross-entropy + 10 x asymmetric loss, both summed over classes and averaged over images.

    In timm's terms BinaryCrossEntropy(smoothing=0.2), which makes targets 0.1 and 0.9, plus
    AsymmetricLossMultiLabel(gamma_neg=2, gamma_pos=0, clip=0.05), which timm computes in float32 whatever it is given.
    The loss of a perfect fit is not 0: with 80 classes and 3 labels an image it is about 27.

    Attributes:
        SMOOTHING: Target of an absent label in the cross-entropy; that of a present one is 1 minus this.
        ASYMMETRIC_WEIGHT: Factor of the asymmetric loss.
        CLIP: Probability below which an absent label has no asymmetric loss.
        EPS: Lowest number of which a logarithm is taken.
    """

    SMOOTHING = 0.1
    ASYMMETRIC_WEIGHT = 10.0
    CLIP = 0.05
    EPS = 1e-8

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return the two summands of the loss.

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
        """Return the loss of a batch, see `terms`."""
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
        """Return the loss of logits (B, L) and targets (B, L)."""
        logits = logits.float()
        known = target >= 0
        target = target.where(known, 0)
        if self.reduction is None:
            return self.loss(logits.where(known, self.EXCLUDED), target)
        loss = self.loss(logits, target).where(known, 0).sum()
        if self.reduction == 'mean':
            return loss / known.sum().clamp(min=1)
        return loss / len(logits) if self.reduction == 'batchmean' else loss
