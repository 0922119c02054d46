"""Entry points of `torch.hub.load`: every model of gkgnet_timm, which takes the arguments of `timm.create_model`."""

import timm as _timm

import gkgnet_timm as _gkgnet_timm  # noqa: F401
from gkgnet_timm.weights.source import BACKBONE_MODULE as _BACKBONE_MODULE
from gkgnet_timm.weights.source import MODULES as _MODULES

dependencies = ['torch', 'torchvision', 'timm', 'huggingface_hub', 'safetensors']

_names = _timm.list_models(module=[*_MODULES, _BACKBONE_MODULE])
globals().update({name: _timm.model_entrypoint(name) for name in _names})
