"""What Pyramid ViG, GKGNet and ViG have in common: the stem, and the timm interface to layers in a row."""

from typing import List, Optional, Set, Tuple, Union

import torch
import torch.nn as nn

from timm.models import named_apply

from ..layers.image_size import STRIDE
from ..layers.position import RelativePosition
from ..layers.stem import Stem
from ._checks import check_options, check_positive
from ._compat import feature_take_indices, jit_ignore, update_model_input_size

__all__ = ['VigTrunk']


class VigTrunk(nn.Module):
    """Stem, and the methods that do not depend on what follows it.

    Subclasses add layers that have a map each (`layers_with_maps`, `feature_info`), `forward_features` and
    `forward_intermediates`, and a head: `forward_head`, `remove_head`, `get_classifier`, `reset_classifier`.
    """

    def __init__(
        self,
        img_size: Union[int, Tuple[int, int]],
        in_chans: int,
        dim: int,
        drop_path_rate: float,
        dynamic_img_size: bool,
        dynamic_img_pad: bool,
        pos_embed_init: str,
        stem_stride: int = 4,
        stride: int = STRIDE,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        super().__init__()
        check_positive(in_chans=in_chans)
        check_options(drop_path_rate=drop_path_rate, dynamic_img_size=dynamic_img_size, dynamic_img_pad=dynamic_img_pad)
        if pos_embed_init not in ('resample', 'zero'):
            raise ValueError(f"pos_embed_init is 'resample' or 'zero', got {pos_embed_init!r}.")
        self.in_chans = in_chans
        self.pos_embed_init = pos_embed_init
        self._traits = {'fixed_input_size': not dynamic_img_size}
        self.stem: Stem = Stem(
            in_chans, dim, img_size, dynamic_img_size, dynamic_img_pad, stem_stride, stride, device=device, dtype=dtype
        )

    @jit_ignore
    def layers_with_maps(self) -> nn.ModuleList:
        """The layers that `forward_intermediates` counts."""
        raise NotImplementedError

    @jit_ignore
    def init_weights(self) -> None:
        """Initialise every parameter and buffer, as published."""
        named_apply(self._init_weights, self)

    @jit_ignore
    def _init_weights(self, module: nn.Module, name: str = '') -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_in', nonlinearity='relu')
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.Linear, nn.Embedding)):
            module.reset_parameters()
        elif isinstance(module, Stem):
            nn.init.zeros_(module.pos_embed)
        elif isinstance(module, RelativePosition):
            module.init_non_persistent_buffers()

    @jit_ignore
    def no_weight_decay(self) -> Set[str]:
        # the published recipe decays the position and label embeddings; timm exempts norms and biases by their shape
        return set()

    @jit_ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade the activations of the blocks for a second forward pass in training."""
        for module in self.modules():
            if hasattr(module, 'grad_checkpointing'):
                module.grad_checkpointing = enable

    @jit_ignore
    def set_input_size(self, img_size: Union[int, Tuple[int, int]]) -> None:
        """Set the image size of the model: resample the position embedding and rebuild the position tables.

        Args:
            img_size: Side or (height, width) in pixels, multiples of the stride of the last map.
        """
        self.stem.set_input_size(img_size)
        update_model_input_size(self, img_size)

    def prune_intermediate_layers(
        self,
        indices: Union[int, List[int]] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> List[int]:
        """Drop the layers after the last index, and the head unless `prune_head` is False and it still fits."""
        layers = self.layers_with_maps()
        take_indices, max_index = feature_take_indices(len(layers), indices)
        if prune_head or max_index < len(layers) - 1:
            del layers[max_index + 1 :]
            self.num_features: int = self.feature_info[max_index]['num_chs']
            self.head_hidden_size: int = self.num_features
            self.remove_head()
        return take_indices

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.forward_features(x)
        x = self.forward_head(x)
        return x
