"""Names of timm that have no public home, which only this file imports, and one of torch that has no types."""

from typing import Any, Callable, TypeVar

import torch

from timm.models._features import feature_take_indices
from timm.models._hub import save_config_for_hf
from timm.models._input import _get_global_pool as get_global_pool
from timm.models._input import get_model_traits, update_model_input_size

__all__ = ['feature_take_indices', 'get_global_pool', 'get_model_traits', 'jit_ignore', 'save_config_for_hf']
__all__ += ['update_model_input_size']

MethodT = TypeVar('MethodT', bound=Callable[..., Any])


def jit_ignore(method: MethodT) -> MethodT:
    """`torch.jit.ignore`, which keeps the types of a method for type checkers."""
    torch.jit.ignore(method)  # marks it, and returns it
    return method
