"""Measure the CPU time that `predict` takes for one image, beside what cannot be saved of it."""

import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List

import numpy as np

from timm.models import save_for_hf

from ..data.demo import draw_scene
from .case import create_timm_model

try:
    import resource
except ImportError:  # on Windows
    resource = None

__all__ = ['benchmark_startup']

FLOOR = """
import torch, timm, gkgnet_timm
model = timm.create_model({model!r}, img_size={img_size}, num_classes={num_classes}).eval()
with torch.inference_mode():
    model(torch.zeros(1, 3, {img_size}, {img_size}))
"""


def _cpu_seconds(command: List[str]) -> float:
    """CPU seconds of a process and those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def benchmark_startup(model: str, img_size: int, num_classes: int = 80, repeat: int = 5) -> Dict[str, Any]:
    """Run `predict` on one image, and a script that imports timm, creates the model and runs it once, in turn.

    Args:
        model: Name of a model of this package.
        img_size: Side of its images.
        num_classes: Classes of the model.
        repeat: Processes of each, after one that fills the caches.

    Returns:
        A row: medians of the CPU seconds of each, and their ratio.

    Raises:
        OSError: Where Python does not tell the CPU time of other processes.
    """
    if resource is None:
        raise OSError('benchmark startup needs the CPU time of other processes, which Python does not tell here.')
    with TemporaryDirectory() as folder:
        save_for_hf(create_timm_model(model, img_size, num_classes), folder, safe_serialization=True)
        weights, photo = str(Path(folder, 'model.safetensors')), str(Path(folder, 'scene.png'))
        draw_scene(np.random.default_rng(0))[0].save(photo)
        floor = FLOOR.format(model=model, img_size=img_size, num_classes=num_classes)
        commands = {
            'predict_s': [sys.executable, '-m', 'gkgnet_timm', 'predict', photo, '--checkpoint', weights],
            'floor_s': [sys.executable, '-c', floor],
        }
        seconds: Dict[str, List[float]] = {name: [] for name in commands}
        for _ in range(repeat + 1):
            for name, command in commands.items():
                seconds[name].append(_cpu_seconds(command))
    row = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return dict(model=model, img_size=img_size, **row, time_vs_floor=row['predict_s'] / row['floor_s'])
