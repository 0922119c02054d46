"""The preprocessing that a model takes."""

from statistics import fmean
from typing import Any, Dict, Optional

import torch.nn as nn

from timm.data import resolve_input_data_config

from ..data.decode import MODES

__all__ = ['resolve_preprocessing']


def resolve_preprocessing(model: nn.Module, args: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """Return the preprocessing of timm's `resolve_input_data_config`, with mean and std for grey images if need be.

    Raises:
        ValueError: If images cannot have as many channels as the model takes.
    """
    config = resolve_input_data_config(model, args=args)
    channels = config['input_size'][0]
    if channels not in MODES:
        raise ValueError(
            f'The model takes images of {channels} channels, images are read with 3 (colour) or 1 (grey): give '
            '--model-kwargs in_chans=3 or in_chans=1.'
        )
    for name in ('mean', 'std'):
        if len(config[name]) != channels:
            config[name] = (fmean(config[name]),) * channels
    return config
