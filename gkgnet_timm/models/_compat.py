"""Names of timm that have no public home. Only this file imports them."""

from timm.models._features import feature_take_indices
from timm.models._input import get_model_traits, update_model_input_size

__all__ = ['feature_take_indices', 'get_model_traits', 'update_model_input_size']
