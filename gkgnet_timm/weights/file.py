"""TODO weights.file."""

import hashlib
import re
from pathlib import Path
from typing import Any, ContextManager, Dict, Optional, Union

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError

from timm.models import load_state_dict
from timm.utils import load_checkpoint_metadata

__all__ = ['HTTPError', 'find_problem', 'published_globals', 'read_checkpoint_args', 'sha256']


def published_globals() -> ContextManager[None]:
    """Admit numpy arrays and scalars, such as class names, to `torch.load(weights_only=True)` within the context.

    The published training framework wrote them into the meta data of its checkpoints, at the time under the name
    `numpy.core`. Nothing that is admitted runs code of the file.
    """
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]
    allowed = [np.ndarray, np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]
    for package in ('numpy.core', 'numpy._core'):
        allowed += [(reconstruct, f'{package}.multiarray._reconstruct'), (scalar, f'{package}.multiarray.scalar')]
    # leaving the context forgets its entries, also those that the user had admitted before
    admitted = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([entry for entry in allowed if entry not in admitted])


HTTPError = HfHubHTTPError.__bases__[0]  # of the HTTP client that the installed version uses


def sha256(path: Union[str, Path]) -> str:
    """Hash of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def find_problem(path: Union[str, Path]) -> Optional[str]:
    """What keeps a file from being weights, None if nothing does. No code in it is run."""
    with open(path, 'rb') as file:
        head = file.read(1024).lstrip()
    if head.startswith(b'<'):
        return 'a web page in place of a checkpoint, as Google Drive sends one first: download with a browser'
    # the Hub names files in its cache by the hash that it has announced
    name = Path(path).resolve().name
    if re.fullmatch('[0-9a-f]{64}', name) and sha256(path) != name:
        return 'not what the Hub has announced, by its SHA-256'
    try:
        with published_globals():
            state_dict = load_state_dict(str(path), use_ema=False)
    except Exception as error:  # torch, pickle, zipfile and safetensors raise a dozen types on other files
        if code := re.search(r'GLOBAL ([\w.]+)', str(error.__cause__)):
            return f'a pickle that asks for {code[1]}, which is code and was not run'
        return f'damaged, or no checkpoint ({type(error.__cause__ or error).__name__})'
    for name, tensor in state_dict.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            return f'broken: tensor {name!r} has nan or infinite numbers'
    return None


def read_checkpoint_args(path: str) -> Dict[str, Any]:
    """Flags that a checkpoint of train_multilabel.py was trained with, its `class_names`, and whether it `has_ema`, the
    average of the weights; empty for others.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint.
    """
    if not Path(path).is_file():
        last = Path(path, 'last.pth.tar')
        raise FileNotFoundError(
            f'Checkpoint {str(path)!r} ' + (f'is a folder, give {last}.' if last.is_file() else 'does not exist.')
        )
    if str(path).endswith('.safetensors'):
        return {}
    try:
        with published_globals():
            checkpoint = load_checkpoint_metadata(path)
    except Exception as error:  # whatever torch raises for a file of another kind
        problem = find_problem(path) or 'no readable checkpoint'
        raise ValueError(
            f'{str(path)!r} is {problem}. If it is of a training, take another one of its folder.'
        ) from error
    args = checkpoint.get('args') if isinstance(checkpoint, dict) else None
    return dict(vars(args), has_ema='state_dict_ema' in checkpoint) if hasattr(args, 'class_names') else {}
