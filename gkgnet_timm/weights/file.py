"""Read a file of weights without running code in it: what it holds, what is wrong with it, what it was trained with."""

import hashlib
import re
from pathlib import Path
from typing import Any, ContextManager, Dict, List, NamedTuple, Optional, Union

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError

from timm.models import PretrainedCfg, load_state_dict
from timm.utils import load_checkpoint_metadata

from ..class_names import check_names
from ..runtime import cache_dir

__all__ = ['HTTPError', 'TrainedWith', 'find_problem', 'installed_file', 'published_globals', 'read_training', 'sha256']

HTTPError = HfHubHTTPError.__bases__[0]  # of the HTTP client that the installed version uses


def published_globals() -> ContextManager[None]:
    """Allow `torch.load(weights_only=True)` to read numpy arrays and scalars, such as class names, within the context.

    The published training framework wrote them into the metadata of its checkpoints, then under the name `numpy.core`.
    None of the allowed types runs code from the file.
    """
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]
    allowed = [np.ndarray, np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]
    for package in ('numpy.core', 'numpy._core'):
        allowed += [(reconstruct, f'{package}.multiarray._reconstruct'), (scalar, f'{package}.multiarray.scalar')]
    # leaving the context removes its entries, even those that the user had allowed before
    users = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([entry for entry in allowed if entry not in users])


def sha256(path: Union[str, Path]) -> str:
    """Return the hash of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def find_problem(path: Union[str, Path]) -> Optional[str]:
    """Say why a file cannot be used as weights, None if it can. No code in it is run."""
    with open(path, 'rb') as file:
        head = file.read(1024).lstrip()
    if head.startswith(b'<'):
        return 'a web page in place of a checkpoint, as Google Drive sends one first: download with a browser'
    # the Hub names the files in its cache by the hash it has announced
    name = Path(path).resolve().name
    if re.fullmatch('[0-9a-f]{64}', name) and sha256(path) != name:
        return 'different from what the Hub announced, by its SHA-256'
    try:
        with published_globals():
            state_dict = load_state_dict(str(path), use_ema=False)
    except Exception as error:  # torch, pickle, zipfile and safetensors raise a dozen types on other files
        if code := re.search(r'GLOBAL ([\w.]+)', str(error.__cause__)):
            return f'a pickle that asks for {code[1]}, which is code and was not run'
        return f'damaged or not a checkpoint ({type(error.__cause__ or error).__name__})'
    for name, tensor in state_dict.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            return f'broken: tensor {name!r} has nan or infinite numbers'
    return None


def installed_file(cfg: PretrainedCfg) -> Optional[Path]:
    """Return where `convert --install` puts the weights of a tag, None for weights that were never published.

    Tags with one source share a file: that of `pvig_s_224.in1k` is also the trunk of `gkgnet_448.in1k`.
    """
    source = cfg.hf_hub_id or cfg.url
    if cfg.source or not source:
        return None
    return cache_dir() / 'weights' / source.rpartition('/')[2].removesuffix('.pth.tar') / 'model.safetensors'


class TrainedWith(NamedTuple):
    """What a checkpoint of our training says about itself.

    Attributes:
        config: All fields of the training configuration, by flag name. `model` (str), `model_kwargs` (dict) and
            `img_size` (int or None) have been checked.
        class_names: In the order of the scores.
        has_ema: Whether it holds the average of the weights as well.
        table: Record of how a table of labels was understood, not checked. None for other data sets.
    """

    config: Dict[str, Any]
    class_names: List[str]
    has_ema: bool
    table: Any = None


def read_training(path: Union[str, Path]) -> Optional[TrainedWith]:
    """Read what a checkpoint of train_multilabel.py was trained with, None for weights of other origin.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, or a damaged one.
    """
    path = str(path)
    if not Path(path).is_file():
        last = Path(path, 'last.pth.tar')
        raise FileNotFoundError(
            f'Checkpoint {path!r} ' + (f'is a folder, give {last}.' if last.is_file() else 'does not exist.')
        )
    if path.endswith('.safetensors'):
        return None
    remedy = 'If it is of a training, take another one of its folder.'
    try:
        with published_globals():
            checkpoint = load_checkpoint_metadata(path)
    except Exception as error:  # whatever torch raises for a file of another kind
        problem = find_problem(path) or 'not a readable checkpoint'
        raise ValueError(f'{path!r} is {problem}. {remedy}') from error
    args = checkpoint.get('args') if isinstance(checkpoint, dict) else None
    if not isinstance(args, dict) or 'class_names' not in args:
        return None
    config = dict(args)
    class_names, table = config.pop('class_names'), config.pop('table', None)
    stored = dict(config, class_names=class_names, state_dict=checkpoint.get('state_dict'))
    types = dict(class_names=list, model=str, model_kwargs=dict, img_size=(int, type(None)), state_dict=dict)
    for name, kind in types.items():
        if name not in stored or not isinstance(stored[name], kind):
            raise ValueError(f'{path!r} is damaged: its {name} is of type {type(stored.get(name)).__name__}. {remedy}')
    return TrainedWith(config, check_names(class_names, path), 'state_dict_ema' in checkpoint, table)
