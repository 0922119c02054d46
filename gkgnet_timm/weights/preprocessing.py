"""The preprocessing that a model takes."""

from typing import Any, Dict, Optional

import torch.nn as nn

from timm.data import resolve_input_data_config
from timm.data.model_config import get_model_input_config

from ..data.decode import MODES

__all__ = ['resolve_preprocessing']


def resolve_preprocessing(model: nn.Module, args: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """Return the preprocessing of timm's `resolve_input_data_config` for a model of colour or grey images.

    Raises:
        ValueError: If images cannot have as many channels as the model takes.
    """
    channels = get_model_input_config(model)['input_size'][0]
    if channels not in MODES:
        raise ValueError(
            f'The model takes images of {channels} channels, images are read with 3 (colour) or 1 (grey): give '
            '--model-kwargs in_chans=3 or in_chans=1.'
        )
    return resolve_input_data_config(model, args=args)
