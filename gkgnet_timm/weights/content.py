"""Load a file of weights without running code in it, and find the tensors of a model in it, whatever tool wrote it."""

import logging
import os
import types
import zipfile
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import safetensors.torch
import torch

__all__ = [
    'ContentError',
    'Weights',
    'check_raw',
    'published_globals',
    'read_content',
    'read_weights',
    'reading_once',
]

_logger = logging.getLogger(__name__)
RAW, AVERAGE = ('state_dict', 'model_state_dict', 'model'), ('state_dict_ema', 'model_ema')  # the first found is taken
WRAPPERS = ('model.', 'net.', 'module.', '_orig_mod.')  # of Lightning, of classes of users, of DDP, of torch.compile
_Last = Dict[Tuple[int, ...], Any]
_last: ContextVar[Optional[_Last]] = ContextVar('last', default=None)  # content by what tells files apart, at most one


class ContentError(ValueError):
    """A file that can be read, and does not hold the tensors of a model."""


class Weights(NamedTuple):
    """Tensors of a model from a file."""

    tensors: Dict[str, torch.Tensor]
    is_average: bool


def published_globals() -> ContextManager[None]:
    """Allow `torch.load(weights_only=True)` to read numpy arrays and scalars, such as class names, within the context.

    The published training framework wrote them into the metadata of its checkpoints, then under the name `numpy.core`.
    timm's training script writes the flags it was given. None of the allowed types runs code from the file.
    """
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]
    allowed = [np.ndarray, np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]
    for package in ('numpy.core', 'numpy._core'):
        allowed += [(reconstruct, f'{package}.multiarray._reconstruct'), (scalar, f'{package}.multiarray.scalar')]
    allowed.append((types.SimpleNamespace, 'argparse.Namespace'))
    # leaving the context removes its entries, even those that the user had allowed before
    users = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([entry for entry in allowed if entry not in users])


@contextmanager
def reading_once() -> Iterator[None]:
    """Read a file once, however often its content is asked for within the context, as long as it does not change.

    Windows lets nobody replace the file before the context ends.
    """
    token = _last.set({}) if _last.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _last.reset(token)


def read_content(path: Union[str, Path]) -> Any:
    """Load all that a file of torch or safetensors holds.

    Tensors are mapped, and read when they are used: that has to be before the file is written to. An optimizer that
    nobody asks for costs no time. Within `reading_once` others have the same content: do not change it.

    Raises:
        Exception: Of a dozen types that torch, pickle, zipfile and safetensors raise, see `find_problem`.
    """
    path = str(path)
    if path.endswith('.safetensors'):
        return safetensors.torch.load_file(path)
    last = _last.get()
    if last is None:
        return _load(path)
    status = os.stat(path)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in last:
        last.clear()
        last[key] = _load(path)
    return last[key]


def _load(path: str) -> Any:
    is_zip = zipfile.is_zipfile(path)  # torch before 1.6 wrote another format, which cannot be mapped
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > os.path.getsize(path):
            raise ContentError(
                f'{path!r} is compressed, and {size / 1e9:.1f} GB when unpacked: torch compresses nothing.'
            )
    with published_globals():
        return torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)


def _check_tensors(tensors: Dict[Any, Any], path: str) -> None:
    """Raise a ValueError that names the first entry that is no tensor of the file."""
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            problem = f'the name of a tensor is {type(name).__name__}, expected text'
        elif not isinstance(tensor, torch.Tensor):
            problem = f'{name!r} is {type(tensor).__name__}, expected a tensor'
        elif tensor.is_quantized or tensor.layout != torch.strided or tensor.device.type != 'cpu':
            problem = f'tensor {name!r} is sparse, quantized or has no numbers'
        elif tensor.numel() * tensor.element_size() > os.path.getsize(path):
            problem = f'tensor {name!r} is of shape {tuple(tensor.shape)}, larger than the file'
        else:
            continue
        raise ContentError(f'{path!r} is damaged: {problem}.')


def _unwrap(tensors: Dict[str, torch.Tensor], path: str) -> Tuple[Dict[str, torch.Tensor], str]:
    """Remove the prefixes of wrappers, in any order, as long as all names have one. Returns the prefixes as well."""
    found: List[str] = []
    tensors = {name: tensor for name, tensor in tensors.items() if name != 'n_averaged'}  # of torch's AveragedModel
    while tensors:
        counts = {prefix: sum(name.startswith(prefix) for name in tensors) for prefix in WRAPPERS}
        prefix = max(counts, key=counts.__getitem__)
        if counts[prefix] < len(tensors):
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        found.append(prefix)
    if tensors and len(tensors) / 2 < counts[prefix] < len(tensors):
        other = next(name for name in tensors if not name.startswith(prefix))
        raise ContentError(
            f'{path!r} has {counts[prefix]} tensors of a model below {prefix!r}, and {len(tensors) - counts[prefix]} '
            f'of something else, such as {other!r}: save those of the model alone.'
        )
    return tensors, ''.join(found)


def _group(content: Dict[str, Any], keys: Tuple[str, ...]) -> Optional[str]:
    return next((key for key in keys if isinstance(content.get(key), dict) and content[key]), None)


def check_raw(path: Union[str, Path]) -> None:
    """Raise a ContentError if a file that can be read holds the average of the weights and not the weights."""
    content = read_content(path)
    if isinstance(content, dict) and _group(content, AVERAGE) and not _group(content, RAW):
        raise ContentError(f'--no-use-ema: {str(path)!r} holds the average of the weights alone.')


def read_weights(path: Union[str, Path], use_ema: Optional[bool] = None) -> Weights:
    """Read the tensors of a model, and say in a warning what was chosen or unwrapped.

    Args:
        path: A state dict, a checkpoint that has one, or a safetensors file.
        use_ema: Of a file with both, take the average of the weights or the weights themselves. None: the average if
            the file says that it had the better metric in training, else the weights.

    Raises:
        ContentError: If the file has no such tensors, or something else in their place.
        Exception: See `read_content`.
    """
    path = str(path)
    content = read_content(path)
    if not isinstance(content, dict):
        raise ContentError(f'{path!r} holds {type(content).__name__}, not the tensors of a model.')
    raw, average = _group(content, RAW), _group(content, AVERAGE)
    prefers_average = content.get('best_weights') == 'average' if use_ema is None else use_ema
    is_average = bool(average) and (not raw or prefers_average)
    if use_ema and not average:
        raise ContentError(
            f'--use-ema: {path!r} holds no average of the weights, as a training with --model-ema leaves one.'
        )
    key = average if is_average else raw
    tensors = content[key] if key else content
    _check_tensors(tensors, path)
    tensors, prefix = _unwrap(tensors, path)
    if not path.endswith('.safetensors'):  # others have the same content, and the file may change
        tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    if use_ema is None and raw and average:
        taken, other = ('average', 'weights') if is_average else ('weights', 'average')
        _logger.warning(f'{path!r} holds weights and their average: took the {taken}, not the {other}.')
    found = [f'those of {key!r}'] if key not in (None, *RAW[::2], *AVERAGE) else []
    found += [f'without the prefix {prefix!r}'] if prefix else []
    if found:
        _logger.warning(f'{path!r}: tensors are taken, {", ".join(found)}.')
    return Weights(tensors, is_average)
