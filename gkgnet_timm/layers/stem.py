"""The stem: from images to the first nodes."""

from typing import Optional, Tuple, Union

import torch
import torch.nn as nn

from timm.models import register_notrace_module

from .bands import in_groups
from .conv import ConvBnAct, NodeGELU
from .image_size import STRIDE, prepare_images, resolve_img_size
from .position import resample_pos_embed

__all__ = ['Stem']


@register_notrace_module  # sizes decide what happens
class Stem(nn.Module):
    """Convolutions, each but the last of stride 2, and the absolute position embedding.

    Args:
        in_chans: Channels of the images.
        dim: Channels of the nodes. Each convolution before those has half as many as the next one.
        img_size: Image side or (height, width) that the position embedding is made for.
        dynamic_img_size: Take other sizes.
        dynamic_img_pad: Pad images.
        stride: Pixels from one node to the next, a power of 2 from 4 on.
        img_stride: What image sides have to be multiples of.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        img_size: Union[int, Tuple[int, int]],
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        stride: int = 4,
        img_stride: int = STRIDE,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.in_chans = in_chans
        self.stride = stride
        self.img_stride = img_stride
        self.img_size = resolve_img_size(img_size, dynamic_img_pad, img_stride)
        self.dynamic_img_size = dynamic_img_size
        self.dynamic_img_pad = dynamic_img_pad
        conv_args = dict(kernel_size=3, bias=True, act_layer=NodeGELU, **dd)
        width = 2 * dim // stride  # doubles with every halving of the map
        self.conv1 = ConvBnAct(in_chans, width, stride=2, **conv_args)
        self.halvings = nn.Sequential()  # between the first convolution and the last two
        while 2 * width < dim:
            self.halvings.append(ConvBnAct(width, 2 * width, stride=2, **conv_args))
            width *= 2
        self.conv2 = ConvBnAct(width, dim, stride=2, **conv_args)
        self.conv3 = ConvBnAct(dim, dim, apply_act=False, **conv_args)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *self._grid_size(), **dd))

    def _grid_size(self) -> Tuple[int, int]:
        return self.img_size[0] // self.stride, self.img_size[1] // self.stride

    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Resample the position embedding to a different image size."""
        self.img_size = resolve_img_size(img_size, self.dynamic_img_pad, self.img_stride)
        pos_embed = resample_pos_embed(self.pos_embed.detach(), *self._grid_size())
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=self.pos_embed.requires_grad)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)  # (B, in_chans, H, W) -> (B, C1, H/2, W/2)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.halvings(x)
        x = self.conv2(x)  # -> (B, C, H/stride, W/stride)
        return self.conv3(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = prepare_images(
            x, self.in_chans, self.img_size, self.dynamic_img_size, self.dynamic_img_pad, self.img_stride
        )
        # From here on a node is a row in memory: all that follows keeps this layout, and would copy any other. The
        # strides of one-channel images fit both layouts, and a convolution takes them for the other one.
        x = x.contiguous(memory_format=torch.channels_last)
        if torch.jit.is_scripting():
            x = self._convolve(x)
        else:
            size = self.conv1.conv.out_channels * x.shape[2] * x.shape[3] // 4
            x = in_groups((self.conv1, *self.halvings, self.conv2, self.conv3), self._convolve, x, size)
        return x + resample_pos_embed(self.pos_embed, x.shape[2], x.shape[3])
