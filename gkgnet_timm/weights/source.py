"""Where weights are: in a file, the folder of a run, a converted folder, or on the Hub."""

import os
from pathlib import Path
from typing import Optional, Union

from huggingface_hub import hf_hub_download
from huggingface_hub.constants import HF_HUB_OFFLINE

from timm.models import PretrainedCfg, parse_model_name

from ..runtime import cache_dir
from .folder import CONFIG, WEIGHTS

__all__ = ['BACKBONE_MODULE', 'GKGNET_FILE', 'GOOGLE_DRIVE', 'MODULES', 'NotDownloaded', 'VIG_FILES', 'check_online']
__all__ += ['drive_endpoint', 'find_checkpoint', 'find_weights', 'installed_file', 'is_offline', 'remedy']

GOOGLE_DRIVE = 'https://drive.google.com'
GKGNET_FILE = f'{GOOGLE_DRIVE}/file/d/1TB_UqqFvpQ2bvy_qau0aKP6GoK9Xlix_/view'  # of the authors
_VIG_RELEASES = 'https://github.com/huawei-noah/Efficient-AI-Backbones/releases/download'
VIG_FILES = {  # by the model that they are of
    'pvig_ti_224': f'{_VIG_RELEASES}/pyramid-vig/pvig_ti_78.5.pth.tar',
    'pvig_s_224': f'{_VIG_RELEASES}/pyramid-vig/pvig_s_82.1.pth.tar',
    'pvig_m_224': f'{_VIG_RELEASES}/pyramid-vig/pvig_m_83.1.pth.tar',
    'pvig_b_224': f'{_VIG_RELEASES}/pyramid-vig/pvig_b_83.66.pth.tar',
    'vig_ti_224': f'{_VIG_RELEASES}/vig/vig_ti_74.5.pth',
    'vig_s_224': f'{_VIG_RELEASES}/vig/vig_s_80.6.pth',
    'vig_b_224': f'{_VIG_RELEASES}/vig/vig_b_82.6.pth',
}
MODULES = ['gkgnet', 'pvig', 'vig']  # of the registered models, as timm.list_models takes them
BACKBONE_MODULE = 'gkgnet_backbone'  # of those on models of timm, which have no published weights of their own
_OF_RUN = ('model_best.pth.tar', 'last.pth.tar')


class NotDownloaded(OSError):
    """A server cannot be reached, or does not send what it should."""


def drive_endpoint() -> str:
    """Address of Google Drive, or of a mirror that GKGNET_TIMM_DRIVE_ENDPOINT names."""
    return (os.environ.get('GKGNET_TIMM_DRIVE_ENDPOINT') or GOOGLE_DRIVE).rstrip('/')


def is_offline() -> bool:
    """Whether the user forbids the network, by HF_HUB_OFFLINE or GKGNET_TIMM_OFFLINE."""
    return HF_HUB_OFFLINE or os.environ.get('GKGNET_TIMM_OFFLINE', '').lower() in ('1', 'true', 'yes', 'on')


def remedy(cfg: PretrainedCfg) -> str:
    """Say how to get weights that could not be downloaded."""
    if cfg.source:
        return 'Check the name, or, if the repository is private or gated: hf auth login.'
    convert = 'python -m gkgnet_timm convert FILE --output DIR --install --model'
    if cfg.url == GKGNET_FILE:
        private = ' If the repository is private: hf auth login.' if cfg.hf_hub_id else ''
        return f'Download {GKGNET_FILE} with a browser, then once: {convert} gkgnet_576.{private}'
    model = next((model for model, url in VIG_FILES.items() if url == cfg.url), None)
    return f'Download it by other means, then once: {convert} {model}.' if model else 'Check the address.'


def check_online(cfg: PretrainedCfg) -> None:
    """Raise an OSError that says how to go on if weights are not here and the user forbids the network."""
    if is_offline():
        name = f'{cfg.architecture}.{cfg.tag}' if cfg.tag else cfg.architecture
        why = 'are not here, and HF_HUB_OFFLINE or GKGNET_TIMM_OFFLINE forbids the network'
        raise OSError(f'Weights of {name} {why}. {remedy(cfg)}')


def find_weights(source: Union[str, Path]) -> str:
    """Return the file of weights that is meant.

    Args:
        source: A file; the folder of a run, of which the best checkpoint is taken, else the last; a folder that
            `convert` or timm wrote, also as 'local-dir:FOLDER'; or 'hf-hub:ORG/NAME', which is downloaded.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no weights in it.
        OSError: If weights cannot be downloaded.
    """
    text = os.path.expanduser(source)
    scheme = text.partition(':')[0] if text.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) else ''
    if scheme.startswith('hf'):
        repo, _, revision = parse_model_name(text)[1].partition('@')
        hf_hub_download(repo, CONFIG, revision=revision or None)  # into the same folder
        return hf_hub_download(repo, WEIGHTS, revision=revision or None)
    path = Path(text.removeprefix('local-dir:'))
    if path.is_dir():
        names = (WEIGHTS,) if scheme or (path / CONFIG).is_file() else _OF_RUN
        found = next((path / name for name in names if (path / name).is_file()), None)
        exported = next((path / name for name in ('model.onnx', 'model.pt2') if (path / name).is_file()), None)
        if found is None and exported:
            raise FileNotFoundError(
                f'Folder {str(path)!r} has no weights, but an exported model: give {str(exported)!r}.'
            )
        if found is None:
            raise FileNotFoundError(
                f'Folder {str(path)!r} has no weights: neither {_OF_RUN[0]} or {_OF_RUN[1]}, as a run of training '
                f'writes, nor {CONFIG} and {WEIGHTS}, as convert writes.'
            )
        return str(found)
    if not path.exists():
        what = 'Folder' if scheme else 'Checkpoint'
        hint = f' For weights on the Hub give hf-hub:{text}.' if text.count('/') == 1 and not path.suffix else ''
        raise FileNotFoundError(f'{what} {str(path)!r} does not exist.{hint}')
    return str(path)


def installed_file(cfg: PretrainedCfg) -> Optional[Path]:
    """Return where an installation puts the weights of a tag, None for weights that were never published.

    Tags with one source share a file: that of `pvig_s_224.in1k` is also the trunk of `gkgnet_448.in1k`.
    """
    source = cfg.hf_hub_id or cfg.url
    if cfg.source or not source:
        return None
    if cfg.url == GKGNET_FILE:  # also where an organisation has it on the Hub
        source = f'{cfg.architecture}.{cfg.tag}'
    folder = source.rpartition('/')[2].removesuffix('.tar').removesuffix('.pth')
    return cache_dir() / 'weights' / folder / 'model.safetensors'


def find_checkpoint(source: str) -> str:
    """Return the checkpoint to resume: a file, or the last one in the folder of a run.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(source)
    if path.is_dir():
        path /= _OF_RUN[1]
    if not path.is_file():
        raise FileNotFoundError(f'Checkpoint {str(path)!r} does not exist.')
    return str(path)
