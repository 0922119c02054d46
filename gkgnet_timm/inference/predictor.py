"""TODO inference.predictor."""

import argparse
from itertools import islice
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader

from timm.data import create_transform

from ..commands.flags.checks import check_device
from ..data.images import ImageFiles
from ..evaluation.evaluate import autocast_context

Prediction = Tuple[str, np.ndarray, str]  # file, scores (L,), why it can not be read


def class_names_of(model: nn.Module) -> List[str]:
    """Class names of pretrained weights, or numbers where they have none."""
    names = list(model.pretrained_cfg.get('label_names') or ())
    return names if len(names) == model.num_classes else [f'class {i}' for i in range(model.num_classes)]


@torch.inference_mode()
def predict(
    model: nn.Module, files: List[str], data_config: Dict[str, Any], args: argparse.Namespace
) -> Iterator[List[Prediction]]:
    """Batches of a file, its scores (L,), nan where the model's are not finite, and why it can not be read, '' for all
    others."""
    device = check_device(args.device)
    # arrays of bytes, normalised below as timm's loader of the evaluation does
    dataset = ImageFiles(files, create_transform(**data_config, use_prefetcher=True))
    workers = args.workers if len(files) > args.batch_size else 0
    loader = DataLoader(dataset, args.batch_size, num_workers=workers, pin_memory=device.type == 'cuda')
    mean, std = (
        torch.tensor([255 * value for value in data_config[name]], device=device).view(-1, 1, 1)
        for name in ('mean', 'std')
    )
    autocast = autocast_context(device, bool(args.amp), args.amp_dtype)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model.to(device, memory_format=layout).eval()
    remaining = iter(files)
    for images, errors in loader:
        images = images.to(device, non_blocking=True).float().sub_(mean).div_(std).contiguous(memory_format=layout)
        with autocast():
            logits = model(images).float()
        scores = logits.sigmoid().masked_fill(~logits.isfinite(), torch.nan)  # or inf would be a score of 1
        yield list(zip(islice(remaining, len(errors)), scores.cpu().numpy(), errors))
