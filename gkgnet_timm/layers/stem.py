"""The stem: from images to the nodes of the first stage."""

from typing import Tuple, Union

import torch
import torch.nn as nn

from timm.models import register_notrace_module

from .bands import in_groups
from .conv import ConvBnAct, NodeGELU
from .image_size import prepare_images, resolve_img_size
from .position import resample_pos_embed

__all__ = ['Stem']


@register_notrace_module  # sizes decide what happens
class Stem(nn.Module):
    """Three convolutions to stride 4, plus the absolute position embedding."""

    def __init__(
        self,
        in_chans: int,
        dim: int,
        img_size: Union[int, Tuple[int, int]],
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        device=None,
        dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.in_chans = in_chans
        self.img_size = resolve_img_size(img_size, dynamic_img_pad)
        self.dynamic_img_size = dynamic_img_size
        self.dynamic_img_pad = dynamic_img_pad
        conv_args = dict(kernel_size=3, bias=True, act_layer=NodeGELU, **dd)
        self.conv1 = ConvBnAct(in_chans, dim // 2, stride=2, **conv_args)
        self.conv2 = ConvBnAct(dim // 2, dim, stride=2, **conv_args)
        self.conv3 = ConvBnAct(dim, dim, apply_act=False, **conv_args)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, self.img_size[0] // 4, self.img_size[1] // 4, **dd))

    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Resample the position embedding to a different image size."""
        self.img_size = resolve_img_size(img_size, self.dynamic_img_pad)
        pos_embed = resample_pos_embed(self.pos_embed.detach(), self.img_size[0] // 4, self.img_size[1] // 4)
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=self.pos_embed.requires_grad)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)  # (B, in_chans, H, W) -> (B, C/2, H/2, W/2)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.conv2(x)  # -> (B, C, H/4, W/4)
        return self.conv3(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = prepare_images(x, self.in_chans, self.img_size, self.dynamic_img_size, self.dynamic_img_pad)
        # From here on a node is a row in memory: all that follows keeps this layout, and would copy any other. The
        # strides of one-channel images fit both layouts, and a convolution takes them for the other one.
        x = x.contiguous(memory_format=torch.channels_last)
        if torch.jit.is_scripting():
            x = self._convolve(x)
        else:
            size = self.conv1.conv.out_channels * x.shape[2] * x.shape[3] // 4
            x = in_groups((self.conv1, self.conv2, self.conv3), self._convolve, x, size)
        return x + resample_pos_embed(self.pos_embed, x.shape[2], x.shape[3])
