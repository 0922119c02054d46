"""The head of Pyramid ViG and ViG: pooling, a hidden layer and a classifier."""

from typing import Optional, Union

import torch
import torch.nn as nn

from timm.layers import SelectAdaptivePool2d, get_device_dtype

from ..layers.conv import ConvBnAct
from ._checks import check_classifier, check_options, check_positive
from ._compat import jit_ignore
from ._trunk import VigTrunk

__all__ = ['PyramidVigHead', 'WithHead']


class PyramidVigHead(nn.Module):
    """Pooling, hidden layer, classifier. Without pooling (`pool_type=''`) the hidden layer takes the map."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_size: int,
        pool_type: str = 'avg',
        drop_rate: float = 0.0,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.hidden_size = hidden_size
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type)
        self.pre_logits: ConvBnAct = ConvBnAct(in_features, hidden_size, bias=True, act_layer=nn.GELU, **dd)
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        self.drop: nn.Dropout = nn.Dropout(drop_rate)
        self.fc = nn.Linear(hidden_size, num_classes, **dd) if num_classes > 0 else nn.Identity()

    def reset(
        self,
        num_classes: int,
        pool_type: Optional[str] = None,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        """Replace the classifier, and the pooling unless it is None."""
        if pool_type is not None:
            self.global_pool: SelectAdaptivePool2d = SelectAdaptivePool2d(pool_type=pool_type)
            self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        self.fc = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.hidden_size, num_classes, device=device, dtype=dtype)
            _init_classifier(self.fc)
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.flatten(self.pre_logits(self.global_pool(x)))
        x = self.drop(x)
        return x if pre_logits else self.fc(x)


def _init_classifier(fc: nn.Linear) -> None:
    """Initialise it like the pointwise convolution it is in the published model."""
    nn.init.kaiming_normal_(fc.weight, mode='fan_in', nonlinearity='relu')
    nn.init.zeros_(fc.bias)


class WithHead(VigTrunk):
    """Trunk with that head as `head`, which its subclasses build last."""

    @jit_ignore
    def build_head(
        self,
        num_classes: int,
        global_pool: str,
        hidden_size: int,
        drop_rate: float,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        """Add the head, and initialise the whole model."""
        check_classifier(num_classes, global_pool)
        check_positive(hidden_size=hidden_size)
        check_options(drop_rate=drop_rate)
        self.num_classes = num_classes
        self.head_hidden_size = hidden_size
        self.head: PyramidVigHead = PyramidVigHead(
            self.num_features, num_classes, hidden_size, global_pool, drop_rate, device=device, dtype=dtype
        )
        self.init_weights()

    @jit_ignore
    def _init_weights(self, module: nn.Module, name: str = '') -> None:
        super()._init_weights(module, name)
        if isinstance(module, nn.Linear):
            _init_classifier(module)

    @jit_ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier, or remove it for 0 classes. The pooling stays unless one is given."""
        pool_type = self.head.global_pool.pool_type if global_pool is None else global_pool
        check_classifier(num_classes, pool_type)
        self.num_classes: int = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))

    def remove_head(self) -> None:
        """Leave nothing after the last map."""
        self.head.hidden_size, self.head.pre_logits = self.num_features, nn.Identity()
        self.reset_classifier(0, '')

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, num_classes) of a final map, or the hidden layer (B, head_hidden_size)."""
        return self.head(x, pre_logits=pre_logits)
