"""The published training loss of GKGNet."""

from typing import Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ['GKGNetLoss']


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
            target: (B, L), 1 for a label and 0 for none.
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        positive = target > 0
        soft = torch.where(positive, 1 - self.SMOOTHING, self.SMOOTHING).to(logits.dtype)  # of float32, as published
        bce = F.binary_cross_entropy_with_logits(logits, soft, reduction='sum')

        p = logits.sigmoid()
        q = (1 - p + self.CLIP).clamp(max=1)  # nothing to gain from a negative below the margin
        of_positive = -p.clamp(min=self.EPS).log()
        of_negative = -q.clamp(min=self.EPS).log() * (1 - q) ** 2
        asymmetric = torch.where(positive, of_positive, of_negative).sum()
        return bce / len(logits), self.ASYMMETRIC_WEIGHT * asymmetric / len(logits)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        bce, asymmetric = self.terms(logits, target)
        return bce + asymmetric
