"""Find pretrained weights: a file that is installed, the Hugging Face Hub, GitHub, or what their authors publish.

timm loads them. This file adds what timm leaves out: an installed file is used before the network, a failure gives one
sentence with its remedy, and a damaged download is removed from the cache.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar, Union

import torch
import torch.nn as nn
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from timm.models import PretrainedCfg, build_model_with_cfg, resolve_pretrained_cfg

from ..runtime import one_line
from ..weights.content import published_globals
from ..weights.file import HTTPError, find_problem
from ..weights.folder import CONFIG, read_model_config
from ..weights.source import (
    GKGNET_FILE,
    NotDownloaded,
    check_online,
    drive_endpoint,
    installed_file,
    is_offline,
    remedy,
)

__all__ = ['build_model', 'check_hub', 'on_hub']

_HUB_NAMES = ('model.safetensors', 'pytorch_model.bin')
_SOURCES = {'file', 'state_dict', 'url', 'hf_hub_id'}
ModelT = TypeVar('ModelT', bound=nn.Module)


def on_hub(name: str) -> Dict[str, str]:
    """Where weights are on the Hub: with the organisation that GKGNET_TIMM_HUB_ORG names, else nowhere."""
    organisation = os.environ.get('GKGNET_TIMM_HUB_ORG')
    # offline, timm looks for the file that is named here alone
    return dict(hf_hub_id=f'{organisation}/{name}', hf_hub_filename=_HUB_NAMES[0]) if organisation else {}


def _downloaded_file(cfg: PretrainedCfg, folder: Union[str, Path, None]) -> Optional[Path]:
    """Return the file of a tag in the cache of the Hub or of torch.hub, None if it is not there."""
    if cfg.hf_hub_id:
        repo, _, revision = cfg.hf_hub_id.partition('@')
        for name in (cfg.hf_hub_filename, *_HUB_NAMES):
            path = try_to_load_from_cache(repo, name, folder, revision or None) if name else None
            if isinstance(path, str):
                return Path(path)
        return None
    path = Path(folder or Path(torch.hub.get_dir(), 'checkpoints'), cfg.url.rpartition('/')[2])
    return path if path.is_file() else None


def _check(path: Path, origin: str, error: Optional[Exception] = None) -> None:
    """Raise a ValueError if a file is not weights. If its origin is 'downloaded', remove it from the cache."""
    if problem := find_problem(path):
        remedy = ' Remove them and install them again: python -m gkgnet_timm weights.' if origin == 'installed' else ''
        if origin == 'downloaded':
            for file in {path.resolve(), path}:  # the Hub's cache has a file and a link to it
                file.unlink(missing_ok=True)
            remedy = ' It was removed from the cache; the next try downloads it again.'
        raise ValueError(f'Weights {str(path)!r} are {problem}.{remedy}') from error


def _installed_notes(file: Path) -> Dict[str, Any]:
    """What was noted when weights were installed: whether the order of their class names has been confirmed."""
    config = file.with_name(CONFIG)
    notes = read_model_config(config)['pretrained_cfg'].get('notes') if config.is_file() else None
    return {} if notes is None else dict(notes=tuple(notes))


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {one_line(error, 160)}'


def _ask_hub(cfg: PretrainedCfg, timeout: float) -> None:
    """Raise what the Hub answers if it does not have weights: one question, its own download tries for 20 seconds."""
    repo, _, revision = cfg.hf_hub_id.partition('@')
    get_hf_file_metadata(hf_hub_url(repo, _HUB_NAMES[0], revision=revision or None), timeout=timeout)


def check_hub(cfg: PretrainedCfg, cache_dir: Union[str, Path, None]) -> None:
    """Raise an OSError or HTTPError soon if weights are not in the cache, and the Hub cannot be reached."""
    if cfg.hf_hub_id and not _downloaded_file(cfg, cache_dir):
        with suppress(EntryNotFoundError):  # a file of another name
            _ask_hub(cfg, timeout=10)


def _from_authors(cfg: PretrainedCfg, cache_dir: Union[str, Path, None]) -> Optional[Path]:
    """Install the weights that their authors publish, unless the Hub has them: then return None.

    Raises:
        OSError: If neither can be reached. Says what was tried, in order.
        ValueError: If what was downloaded is not the weights.
    """
    tried: List[str] = []
    if cfg.hf_hub_id:
        if _downloaded_file(cfg, cache_dir):
            return None
        try:
            if not is_offline():
                _ask_hub(cfg, timeout=1)
                return None
        except (OSError, HTTPError) as error:
            tried.append(f'from Hugging Face repository {cfg.hf_hub_id!r} ({_reason(error)})')
    name = f'{cfg.architecture}.{cfg.tag}'
    tried.insert(0, f'installed in {str(installed_file(cfg).parent)!r} (nothing is there)')
    check_online(cfg)
    from ..weights.published import install_published  # reads images, too, as all that converts

    try:
        return install_published(cfg)
    except NotDownloaded as error:
        tried.append(f'from {drive_endpoint()} ({one_line(error)})')
    raise OSError(f'No weights of {name}: {", ".join(tried)}. {remedy(cfg)}')


def build_model(
    model_cls: Callable[..., ModelT],
    variant: str,
    pretrained: bool,
    feature_indices: Union[int, Tuple[int, ...], None] = (0, 1, 2, 3),
    **kwargs: Any,
) -> ModelT:
    """Build a model by timm's `build_model_with_cfg`, with installed weights before those of the network.

    Args:
        model_cls: Its class.
        variant: Its registered name.
        pretrained: Whether to load weights.
        feature_indices: Maps of `features_only` unless `out_indices` says which, the last n if int, None for all.
        kwargs: More arguments of timm's function and of the class.

    Raises:
        OSError: If there is no such file, or the download fails: which weights, from where, why, and what to do.
        ValueError: If a file is not weights, or not those of this model.
    """
    overlay = dict(kwargs.pop('pretrained_cfg_overlay', None) or {})
    file, origin = None, 'given'
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), overlay)
        installed = installed_file(cfg)
        if installed and installed.is_file() and not overlay.keys() & _SOURCES:
            overlay['file'], origin = str(installed), 'installed'
        elif cfg.url == GKGNET_FILE and not cfg.source and not overlay.keys() & _SOURCES:
            if found := _from_authors(cfg, kwargs.get('cache_dir')):
                overlay['file'], origin = str(found), 'installed'
        if origin == 'installed':
            overlay |= _installed_notes(Path(overlay['file']))
        file = overlay.get('file') or cfg.file
        if file and not Path(file).is_file() and cfg.source != 'local-dir':
            raise FileNotFoundError(f'Weights {str(file)!r} do not exist.')
        if not file and not cfg.state_dict and (cfg.hf_hub_id or cfg.url):
            origin = 'downloaded'
    remote = origin == 'downloaded'
    cached = _downloaded_file(cfg, kwargs.get('cache_dir')) if remote else None
    if remote and not cached and not cfg.hf_hub_id:  # the Hub's client looks by itself
        check_online(cfg)
    try:
        with published_globals():
            model = build_model_with_cfg(
                model_cls,
                variant,
                pretrained,
                pretrained_cfg_overlay=overlay,
                feature_cfg=dict(out_indices=feature_indices, feature_cls='getter'),
                **kwargs,
            )
    except Exception as error:
        path = _downloaded_file(cfg, kwargs.get('cache_dir')) if remote else Path(file) if file else None
        path = path / _HUB_NAMES[0] if path and path.is_dir() else path  # a folder of save_for_hf
        if path and path.is_file():
            _check(path, origin, error)
        elif remote and isinstance(error, (OSError, HTTPError)):
            where = f'Hugging Face repository {cfg.hf_hub_id!r}' if cfg.hf_hub_id else cfg.url
            name = f'{cfg.architecture}.{cfg.tag}' if cfg.tag else cfg.architecture
            raise OSError(f'No weights of {name} from {where} ({_reason(error)}). {remedy(cfg)}') from error
        raise
    if remote and not cached:
        _check(_downloaded_file(cfg, kwargs.get('cache_dir')), origin)
    return model
