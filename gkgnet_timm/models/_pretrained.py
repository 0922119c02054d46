"""Where pretrained weights come from: a file that the user has installed, the Hugging Face Hub, GitHub.

timm does the loading. Here is what it leaves to others: an installed file goes before the network, a failure is one
sentence with its remedy, and what a download has damaged does not stay in the cache.
"""

import os
import textwrap
from pathlib import Path
from typing import Any, Optional, Type, TypeVar, Union

import torch
import torch.nn as nn
from huggingface_hub import try_to_load_from_cache

from timm.models import PretrainedCfg, build_model_with_cfg, resolve_pretrained_cfg

from ..runtime import cache_dir
from ..weights.file import HTTPError, find_problem, published_globals

__all__ = ['GKGNET_FILE', 'HUB_ORG', 'VIG_FILES', 'build_model', 'installed_file']

HUB_ORG = os.environ.get('GKGNET_TIMM_HUB_ORG') or 'gkgnet-timm'  # a team that mirrors weights names its own

GKGNET_FILE = 'https://drive.google.com/file/d/1TB_UqqFvpQ2bvy_qau0aKP6GoK9Xlix_/view'

_VIG_RELEASE = 'https://github.com/huawei-noah/Efficient-AI-Backbones/releases/download/pyramid-vig'

VIG_FILES = {
    'ti': f'{_VIG_RELEASE}/pvig_ti_78.5.pth.tar',
    's': f'{_VIG_RELEASE}/pvig_s_82.1.pth.tar',
    'm': f'{_VIG_RELEASE}/pvig_m_83.1.pth.tar',
    'b': f'{_VIG_RELEASE}/pvig_b_83.66.pth.tar',
}

_HUB_NAMES = ('model.safetensors', 'pytorch_model.bin')

ModelT = TypeVar('ModelT', bound=nn.Module)


def installed_file(cfg: PretrainedCfg) -> Optional[Path]:
    """Where `convert --install` puts the weights of a tag, None for weights of no published source.

    Tags of one source share the file: that of `pvig_s_224.in1k` is the trunk of `gkgnet_448.in1k` too.
    """
    source = cfg.hf_hub_id or cfg.url
    if cfg.source or not source:
        return None
    return cache_dir() / 'weights' / source.rpartition('/')[2].removesuffix('.pth.tar') / _HUB_NAMES[0]


def _downloaded_file(cfg: PretrainedCfg, folder: Union[str, Path, None]) -> Optional[Path]:
    """The file of a tag in the cache of the Hub or of torch.hub, None if it is not there."""
    if cfg.hf_hub_id:
        repo, _, revision = cfg.hf_hub_id.partition('@')
        for name in (cfg.hf_hub_filename, *_HUB_NAMES):
            path = try_to_load_from_cache(repo, name, folder, revision or None) if name else None
            if isinstance(path, str):
                return Path(path)
        return None
    path = Path(folder or Path(torch.hub.get_dir(), 'checkpoints'), cfg.url.rpartition('/')[2])
    return path if path.is_file() else None


def _remedy(cfg: PretrainedCfg) -> str:
    if cfg.source:
        return 'Check the name, or, if the repository is private or gated: hf auth login.'
    convert = 'python -m gkgnet_timm convert FILE --output DIR --install --model'
    if not cfg.hf_hub_id:
        width = next((width for width, url in VIG_FILES.items() if url == cfg.url), None)
        return f'Download it in another way, then, once: {convert} pvig_{width}_224.' if width else 'Check the address.'
    return f'Convert the published file, {GKGNET_FILE}, once: {convert} gkgnet_576. If it is private: hf auth login.'


def _check(path: Path, origin: str, error: Optional[Exception] = None) -> None:
    """Raise a ValueError if a file is not weights. One that is 'downloaded' is removed, to be downloaded anew."""
    if problem := find_problem(path):
        anew = ' Delete it or install it again: python -m gkgnet_timm convert.' if origin == 'installed' else ''
        if origin == 'downloaded':
            for file in {path.resolve(), path}:  # in the Hub's cache a file and a link to it
                file.unlink(missing_ok=True)
            anew = ' It was removed from the cache, the next try downloads it anew.'
        raise ValueError(f'Weights {str(path)!r} are {problem}.{anew}') from error


def build_model(model_cls: Type[ModelT], variant: str, pretrained: bool, **kwargs: Any) -> ModelT:
    """`build_model_with_cfg` of timm, with installed weights before those of the network.

    Raises:
        OSError: If weights can not be had: which, from where, why, and what to do.
        ValueError: If a file is not weights, or not of this model.
    """
    overlay = dict(kwargs.pop('pretrained_cfg_overlay', None) or {})
    file, origin = None, 'given'
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), overlay)
        installed = installed_file(cfg)
        if installed and installed.is_file() and not overlay.keys() & {'file', 'state_dict', 'url', 'hf_hub_id'}:
            overlay['file'], origin = str(installed), 'installed'
        file = overlay.get('file') or cfg.file
        if file and not Path(file).is_file() and cfg.source != 'local-dir':
            raise FileNotFoundError(f'Weights {str(file)!r} are no file.')
        if not file and not cfg.state_dict and (cfg.hf_hub_id or cfg.url):
            origin = 'downloaded'
    remote = origin == 'downloaded'
    cached = _downloaded_file(cfg, kwargs.get('cache_dir')) if remote else None
    try:
        with published_globals():
            model = build_model_with_cfg(
                model_cls,
                variant,
                pretrained,
                pretrained_cfg_overlay=overlay,
                feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'),
                **kwargs,
            )
    except Exception as error:
        path = _downloaded_file(cfg, kwargs.get('cache_dir')) if remote else Path(file) if file else None
        path = path / _HUB_NAMES[0] if path and path.is_dir() else path  # a folder of save_for_hf
        if path and path.is_file():
            _check(path, origin, error)
        elif remote and isinstance(error, (OSError, HTTPError)):
            where = f'Hugging Face repository {cfg.hf_hub_id!r}' if cfg.hf_hub_id else cfg.url
            reason = f'{type(error).__name__}: {textwrap.shorten(str(error), 160)}'
            name = f'{cfg.architecture}.{cfg.tag}' if cfg.tag else cfg.architecture
            raise OSError(f'No weights of {name} from {where} ({reason}). {_remedy(cfg)}') from error
        raise
    if remote and not cached:
        _check(_downloaded_file(cfg, kwargs.get('cache_dir')), origin)
    return model
