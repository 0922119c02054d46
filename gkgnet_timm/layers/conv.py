"""Convolution, BatchNorm and activation of maps whose nodes are rows in memory."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from timm.layers import BatchNormAct2d, ConvNormAct, FrozenBatchNormAct2d

from .bands import in_bands, node_wise

__all__ = ['ConvBnAct', 'NodeGELU']

node_wise(nn.Conv2d, lambda conv: conv.kernel_size == conv.stride == (1, 1))
node_wise(BatchNormAct2d, lambda norm: norm.running_mean is not None)
node_wise(FrozenBatchNormAct2d)
node_wise(nn.Identity)


@node_wise
class NodeGELU(nn.GELU):
    """GELU of maps in the layout of nodes. PyTorch's fast CPU kernel needs contiguous input, so permute first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(x.permute(0, 2, 3, 1), approximate=self.approximate)  # (B, C, H, W) -> (B, H, W, C)
        return x.permute(0, 3, 1, 2)


@node_wise
class ConvBnAct(ConvNormAct):
    """timm's ConvNormAct, whose BatchNorm `timm.utils.reparameterize_model` folds into the convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if torch.jit.is_scripting() or isinstance(self.bn, nn.Identity):
            return self.bn(x)
        return in_bands((self.bn,), self.bn, (x,), width=x.shape[1])

    def reparameterize(self) -> None:
        """Fold the running statistics into the convolution, for inference.

        Raises:
            ValueError: In training mode, where the statistics are those of the batch.
        """
        if self.training:
            raise ValueError('A model in training mode cannot be reparameterized, call eval() first.')
        if isinstance(self.bn, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = self.bn.act
