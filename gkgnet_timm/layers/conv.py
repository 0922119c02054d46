"""Convolution, BatchNorm and activation of maps whose nodes are rows in memory."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from timm.layers import BatchNormAct2d, ConvNormAct, FrozenBatchNormAct2d
from timm.models import register_notrace_module

from ..graph.selection import is_recorded
from .bands import in_bands, node_wise
from .norm_act import norm_act, takes_kernels

__all__ = ['ConvBnAct', 'NodeGELU', 'PointwiseConv2d']

FEW_NODES = 1500  # of a stage with hundreds of channels: the weights are much of what is read

node_wise(BatchNormAct2d, lambda norm: norm.running_mean is not None)
node_wise(FrozenBatchNormAct2d)
node_wise(nn.Identity)


@node_wise
class NodeGELU(nn.GELU):
    """GELU of maps in the layout of nodes. PyTorch's fast CPU kernel needs contiguous input, so permute first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(x.permute(0, 2, 3, 1), approximate=self.approximate)  # (B, C, H, W) -> (B, H, W, C)
        return x.permute(0, 3, 1, 2)


def _has_tensor_cores(x: torch.Tensor) -> bool:
    """Whether products of x run in half precision on a GPU."""
    return x.is_cuda and (x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled('cuda'))


def _has_few_nodes(x: torch.Tensor) -> bool:
    """Whether a CPU that runs layer by layer would spend much of a convolution on the order of its weights."""
    is_eager = x.device.type == 'cpu' and not (is_recorded() or torch.compiler.is_compiling())
    return is_eager and x.shape[0] * x.shape[2] * x.shape[3] <= FEW_NODES


@node_wise
@register_notrace_module
class PointwiseConv2d(nn.Conv2d):
    """Convolution of every node alone, as a matrix product where that is faster.

    In half precision on a GPU cuDNN brings groups into another layout and back, and adds the bias in a pass of its own.
    One matrix with zeros between the groups is more arithmetic and less time: a fifth of a forward pass at 576 px. On a
    CPU oneDNN brings the weights into another order each time: a product of few nodes is up to twice as fast.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if _has_tensor_cores(x) or (self.groups == 1 and _has_few_nodes(x)):
                weight = self.weight.flatten(1)  # (C', C / groups, 1, 1) -> (C', C / groups)
                if self.groups > 1:
                    weight = torch.block_diag(*weight.chunk(self.groups))  # (C', C / groups) -> (C', C)
                x = F.linear(x.permute(0, 2, 3, 1), weight, self.bias)  # (B, C, H, W) -> (B, H, W, C')
                return x.permute(0, 3, 1, 2)  # (B, H, W, C') -> (B, C', H, W)
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


@node_wise
class ConvBnAct(ConvNormAct):
    """timm's ConvNormAct, whose BatchNorm `timm.utils.reparameterize_model` folds into the convolution."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.conv.kernel_size == self.conv.stride == (1, 1):
            self.conv.__class__ = PointwiseConv2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if torch.jit.is_scripting() or isinstance(self.bn, nn.Identity):
            return self.bn(x)
        if takes_kernels(self.bn, x):
            return norm_act(self.bn, x)
        return in_bands((self.bn,), self.bn, (x,), width=x.shape[1])

    def reparameterize(self) -> None:
        """Fold the running statistics into the convolution, for inference.

        Raises:
            ValueError: In training mode, where the statistics are those of the batch.
        """
        if self.training:
            raise ValueError('A model in training mode cannot be reparameterized, call eval() first.')
        if isinstance(self.bn, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            self.conv: nn.Module = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn: nn.Module = self.bn.act
