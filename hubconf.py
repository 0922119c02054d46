"""Entry points of `torch.hub.load`: every model of gkgnet_timm."""

import timm as _timm

import gkgnet_timm as _gkgnet_timm  # noqa: F401

dependencies = ['torch', 'timm']

globals().update({name: _timm.model_entrypoint(name) for name in _timm.list_models(module=['gkgnet', 'pvig'])})
