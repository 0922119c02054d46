"""The models of torch.hub."""

import runpy

import torch
from conftest import ROOT

import timm

from gkgnet_timm.weights.source import MODULES


def test_hubconf_has_our_models_and_no_other():
    names = {name for name in runpy.run_path(str(ROOT / 'hubconf.py')) if not name.startswith('_')}
    assert names == {'dependencies', *timm.list_models(module=[*MODULES, 'gkgnet_backbone'])}
    model = torch.hub.load(str(ROOT), 'gkgnet_ti_224', source='local', num_classes=3, img_size=64)
    assert model.num_classes == 3
    for name in names - {'dependencies'}:  # what `torch.hub.help` shows
        assert timm.model_entrypoint(name).__doc__
