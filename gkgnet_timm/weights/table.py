"""The pretrained weights that are registered: what they are, what they cost, and whether they are installed."""

import functools
from pathlib import Path
from typing import List, NamedTuple, Optional
from urllib.parse import urlsplit

import torch

import timm
from timm.models import PretrainedCfg

from ..class_names import VERIFIED
from .folder import CONFIG, read_model_config
from .source import MODULES, installed_file

__all__ = ['WeightsRow', 'weights_table']

# Of results/cost.csv and results/published.csv, which a wheel does not have; a test compares them.
GIGA_MULTIPLY_ADDS = {
    'gkgnet_224': 5.19,
    'gkgnet_448': 21.86,
    'gkgnet_576': 39.93,
    'gkgnet_b_224': 18.25,
    'gkgnet_b_448': 75.98,
    'gkgnet_b_576': 134.97,
    'gkgnet_m_224': 9.67,
    'gkgnet_m_448': 41.34,
    'gkgnet_m_576': 75.02,
    'gkgnet_ti_224': 1.94,
    'gkgnet_ti_448': 8.85,
    'gkgnet_ti_576': 17.01,
    'pvig_b_224': 16.80,
    'pvig_m_224': 8.85,
    'pvig_s_224': 4.55,
    'pvig_ti_224': 1.70,
    'vig_b_224': 17.64,
    'vig_s_224': 4.52,
    'vig_ti_224': 1.30,
}
PUBLISHED = {
    'gkgnet_576.coco2014': '87.65 mAP on COCO-2014',
    'pvig_b_224.in1k': '83.7 top-1 on ImageNet-1k',
    'pvig_m_224.in1k': '83.1 top-1 on ImageNet-1k',
    'pvig_s_224.in1k': '82.1 top-1 on ImageNet-1k',
    'pvig_ti_224.in1k': '78.5 top-1 on ImageNet-1k',
    'vig_b_224.in1k': '82.3 top-1 on ImageNet-1k',
    'vig_s_224.in1k': '80.4 top-1 on ImageNet-1k',
    'vig_ti_224.in1k': '73.9 top-1 on ImageNet-1k',
}
_HOSTS = {'github.com': 'GitHub', 'drive.google.com': 'Google Drive'}


class WeightsRow(NamedTuple):
    """Pretrained weights under one name.

    Attributes:
        name: As `timm.create_model` takes it, such as 'gkgnet_576.coco2014'.
        num_classes: Classes that the weights know, None for a trunk whose classifier is to be trained.
        source: Where they are downloaded from: Hub, GitHub, Google Drive, another host, or none.
        licence: Of the weights.
        img_size: Side of the images.
        parameters: Of the model with its classifier.
        giga_multiply_adds: Of one image, in billions.
        published: Figure that others have published for these weights.
        file: Where they are once installed. None for weights that cannot be.
        is_installed: Whether they are there now.
        label_names_verified: Whether anything confirms the order of their class names, None for weights without names.
    """

    name: str
    num_classes: Optional[int]
    source: str
    licence: str
    img_size: int
    parameters: int
    giga_multiply_adds: float
    published: Optional[str]
    file: Optional[Path]
    is_installed: bool
    label_names_verified: Optional[bool]


def _source(cfg: PretrainedCfg) -> str:
    if cfg.hf_hub_id:
        return 'Hub'
    host = urlsplit(cfg.url or '').hostname
    return _HOSTS.get(host, host) if host else 'none'


def _is_verified(cfg: PretrainedCfg, file: Optional[Path]) -> Optional[bool]:
    if not cfg.label_names:
        return None
    try:
        notes = read_model_config(file.with_name(CONFIG))['pretrained_cfg'].get('notes') if file else cfg.notes
    except (OSError, ValueError):  # `verify` says what is wrong with it
        notes = None
    return VERIFIED in (notes or ())


@functools.lru_cache(maxsize=None)
def _count_parameters(architecture: str) -> int:
    with torch.device('meta'):  # no weights in memory
        model = timm.create_model(architecture)
    return sum(parameter.numel() for parameter in model.parameters())


def weights_table() -> List[WeightsRow]:
    """Return a row for all pretrained weights of this package, in the order of their names."""
    rows = []
    for name in timm.list_models(pretrained=True, module=MODULES):
        cfg = timm.get_pretrained_cfg(name)
        file = installed_file(cfg)
        is_installed = bool(file and file.is_file())
        is_trunk = cfg.tag == 'in1k' and cfg.num_classes != 1000  # ImageNet-1k has that many classes
        rows.append(
            WeightsRow(
                name=name,
                num_classes=None if is_trunk else cfg.num_classes,
                source=_source(cfg),
                licence='non-commercial use only' if cfg.license == 'other' else cfg.license,
                img_size=cfg.input_size[-1],
                parameters=_count_parameters(cfg.architecture),
                giga_multiply_adds=GIGA_MULTIPLY_ADDS[cfg.architecture],
                published=PUBLISHED.get(name),
                file=file,
                is_installed=is_installed,
                label_names_verified=_is_verified(cfg, file if is_installed else None),
            )
        )
    return rows
