"""What may be written beside the predictions: embeddings of the images, and a text for each."""

import os
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn

from ..runtime import is_url, replacing

__all__ = ['Embeddings', 'check_sidecars', 'sidecar', 'write_sidecars']


class Embeddings:
    """Features (D,) of images before the classifier, from the pass that gives their logits.

    Args:
        model: timm model.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.files: List[str] = []
        self.rows: List[np.ndarray] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits and features side by side: (B, C, H, W) -> (B, L + D)."""
        features = self.model.forward_features(images)
        heads = (self.model.forward_head(features, pre_logits=pre_logits) for pre_logits in (False, True))
        return torch.cat([head.float() for head in heads], dim=1)

    def keep(self, outputs: Iterable[Tuple[str, np.ndarray, str]]) -> Iterator[Tuple[str, np.ndarray, str]]:
        """Pass the logits on, and keep the features of images that could be read."""
        classes = self.model.num_classes
        for file, row, error in outputs:
            if not error:
                self.files.append(file)
                self.rows.append(row[classes:].copy())
            yield file, row[:classes], error

    def save(self, path: Union[str, Path]) -> None:
        """Write `files` (N,) and `embeddings` (N, D)."""
        with replacing(path, 'wb') as file:
            np.savez(file, files=np.array(self.files, dtype=str), embeddings=np.array(self.rows, dtype=np.float32))


def sidecar(file: str) -> str:
    """Path of the text beside an image."""
    return str(Path(file).with_suffix('.txt'))


def check_sidecars(files: Sequence[str], todo: Sequence[str]) -> None:
    """Raise an error if the text beside an image would be that of another, or is there before the image is done."""
    owners: Dict[str, str] = {}
    for file in files:
        if is_url(file):
            raise ValueError(f'--sidecar: {file!r} is a URL, beside which nothing can be written. Give --output.')
        owner = owners.setdefault(sidecar(file), file)
        if owner != file:
            raise ValueError(
                f'--sidecar: {owner!r} and {file!r} would both have {sidecar(file)!r}. Rename one of them.'
            )
    for file in todo:
        if os.path.exists(sidecar(file)):
            raise FileExistsError(f'--sidecar: {sidecar(file)!r} exists. Move it away, it would be overwritten.')


def write_sidecars(rows: Iterable[Dict[str, Any]]) -> None:
    """Write the labels of each image that could be read beside it, separated by ', '."""
    for row in rows:
        if 'labels' in row:
            with replacing(sidecar(row['file'])) as file:
                file.write(', '.join(label['label'] for label in row['labels']) + '\n')
