"""Names of timm that have no public home. Only this file imports them."""

from timm.models._features import feature_take_indices
from timm.models._hub import save_config_for_hf
from timm.models._input import _get_global_pool as get_global_pool
from timm.models._input import get_model_traits, update_model_input_size

__all__ = ['feature_take_indices', 'get_global_pool', 'get_model_traits', 'save_config_for_hf']
__all__ += ['update_model_input_size']
