"""What a file of predictions was made with, kept beside it, so that a later run continues its own rows only."""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np
import torch
import torch.nn as nn

from timm.data import resolve_input_data_config

from ..data.decode import Decoder
from ..runtime import one_line, replacing

__all__ = ['check_run', 'counts_of_joined', 'describe_run', 'remove_run', 'run_file', 'write_run']


def run_file(output: Union[str, Path]) -> Path:
    """The file beside a file of predictions that says what these are made with."""
    return Path(f'{output}.run.json')


def describe_run(
    model: nn.Module,
    class_names: List[str],
    threshold: np.ndarray,
    topk: Optional[int],
    amp_dtype: Optional[str],
    decoder: Decoder,
) -> Dict[str, Any]:
    """Return what decides the rows of images, all of it comparable in json.

    Args:
        model: Model with its weights.
        class_names: L names.
        threshold: Lowest score of a label, or one for each class (L,).
        topk: Largest number of labels, None for all.
        amp_dtype: Type of mixed precision, None without.
        decoder: Reads the images for the model.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    config = resolve_input_data_config(model)
    names = hashlib.sha256(json.dumps(class_names).encode()).hexdigest()
    preprocessing = {name: str(value) for name, value in sorted(config.items())}
    return dict(
        model=model.pretrained_cfg.get('architecture'),
        weights=digest.hexdigest(),
        classes=names,
        threshold=[float(f'{value:.6g}') for value in np.atleast_1d(threshold)],
        topk=topk,
        precision=amp_dtype,
        preprocessing=preprocessing,
        reading=decoder.describe(),
    )


def write_run(output: Union[str, Path], run: Dict[str, Any]) -> None:
    """Write what a file of predictions is made with beside it."""
    with replacing(run_file(output)) as file:
        file.write(json.dumps(run, indent=4) + '\n')


def _read(output: Union[str, Path]) -> Optional[Dict[str, Any]]:
    path = run_file(output)
    if not path.is_file():
        return None
    try:
        before = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{str(path)!r} is damaged, remove it or give another --output: {one_line(error)}.') from error
    if not isinstance(before, dict):
        raise ValueError(f'{str(path)!r} is not of predict. Remove it, or give another --output.')
    return before


def check_run(output: Union[str, Path], run: Dict[str, Any]) -> bool:
    """Say whether it is known what made the rows of a file, and that it is the same now.

    Raises:
        ValueError: If rows would be made with something else now. Says with what.
    """
    before = _read(output)
    if before is None:
        return False
    other = [name for name in run if before.get(name) != run[name]]
    if other:
        raise ValueError(
            f'Cannot resume: {str(output)!r} was begun with other {", ".join(other)}. Give the same flags and model, '
            'or another --output.'
        )
    return True


def counts_of_joined(output: Union[str, Path]) -> Optional[List[int]]:
    """How many rows a file has that was joined from parts, and how many of them are of unreadable images."""
    before = _read(output) if Path(output).is_file() else None
    return before and before.get('joined')


def remove_run(output: Union[str, Path]) -> None:
    """Remove a file of predictions, and what is beside it."""
    for path in (Path(output), run_file(output)):
        path.unlink(missing_ok=True)
