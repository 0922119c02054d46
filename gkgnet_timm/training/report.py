"""The report of a run: the page of its best checkpoint."""

from pathlib import Path
from typing import Any

import torch

from ..evaluation.evaluate import SAME_SPLIT, evaluate_dataset
from ..report.looks import create_look
from ..report.page import write_report
from ..runtime import one_line
from ..weights.load import load_model
from .config import TrainConfig

__all__ = ['report_run']


def report_run(config: TrainConfig, folder: Path, dataset: Any, device: torch.device, is_training_split: bool) -> None:
    """Evaluate the best checkpoint of a run once more and write `report/index.html`. A failure is only printed: the run
    is done.

    Args:
        config: Of the run.
        folder: Of the run.
        dataset: Split of evaluation.
        device: Where the model runs.
        is_training_split: Whether it was trained on these images.
    """
    checkpoint = folder / 'model_best.pth.tar'
    options = dict(workers=config.workers, amp=config.amp, amp_dtype=config.amp_dtype)
    try:
        model = load_model(checkpoint)
        evaluation = evaluate_dataset(model, dataset, device=device, batch_size=config.validation_batch_size, **options)
        origin = dict(model=config.model, checkpoint=checkpoint, dataset=config.dataset, split=dataset.split)
        origin.update(img_size=model.pretrained_cfg['input_size'][-1])
        origin.update(dict(warning=SAME_SPLIT) if is_training_split else {})
        page = write_report(folder / 'report', evaluation, origin, create_look(model, evaluation.class_names))
    except Exception as error:  # whatever it is, the checkpoints are there
        print(f'The report was not written: {type(error).__name__}: {one_line(error)}')
    else:
        print(f'Report: {page}')
