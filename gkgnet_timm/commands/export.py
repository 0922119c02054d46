"""Write a model as ONNX and torch.export files: `gkgnet_timm.export_model`, and the mAP of each file."""

import argparse
from pathlib import Path
from typing import Dict, List, Optional, Union

import numpy as np

from ..export.export import export_model
from ..export.report import describe
from ..inference.device import start_process
from ..inference.predictor import class_names_of
from ..inference.program import is_program
from ..runtime import check_ranges
from ..weights.content import reading_once
from ..weights.file import TrainedWith, read_training
from ..weights.thresholds import load_threshold
from .evaluated import evaluate_model
from .flags import validate as validate_flags
from .flags.checks import RANGES
from .flags.export import create_parser
from .selected import choose_dataset, load_named, model_defaults, select_weights

OF_MODEL = ('checkpoint', 'model', 'pretrained', 'model_kwargs', 'use_ema', 'img_size')


def _mean_average_precision(args: argparse.Namespace, trained: Optional[TrainedWith], **model: object) -> float:
    """The mAP of a model on the split of the flags."""
    flags = validate_flags.create_parser().parse_args([])
    own = {name: value for name, value in vars(args).items() if hasattr(flags, name) and name not in OF_MODEL}
    flags = argparse.Namespace(**{**vars(flags), **own, **model})
    kind = 'ema' if trained and trained.takes_average(flags.use_ema) else 'raw'
    return evaluate_model(flags, trained, start_process('cpu'), [kind])[0][kind].metrics['mAP']


def _threshold_of(value: Optional[str], names: List[str]) -> Optional[List[float]]:
    if value is None:
        return None
    threshold: Union[float, np.ndarray] = load_threshold(value, names)
    return np.broadcast_to(threshold, len(names)).tolist()


def main(argv: Optional[List[str]] = None) -> None:
    parser = create_parser()
    args = parser.parse_args(argv)
    if is_program(args.checkpoint):
        raise ValueError(f'--checkpoint {args.checkpoint!r} is an exported model: give what it was exported from.')
    with reading_once():
        checkpoint = select_weights(args.checkpoint) if args.checkpoint else None
        trained = read_training(checkpoint) if checkpoint else None
        if trained:
            defaults = {k: v for k, v in model_defaults(checkpoint, trained).items() if k in OF_MODEL}
            args = parser.parse_args(argv, argparse.Namespace(**defaults))
        args.checkpoint = checkpoint
        check_ranges(args, RANGES)
        args.dataset = choose_dataset(args.dataset, args.data_dir, (args.split,))
        model, names = load_named(args, trained)
    names = names or class_names_of(model)
    files = export_model(
        model,
        args.output,
        formats=args.format,
        dynamic_size=args.dynamic_size,
        half=args.half,
        int8=args.int8,
        neighbors=args.neighbors,
        opset=args.opset,
        calibration_images=args.calibration_images,
        class_names=names,
        thresholds=_threshold_of(args.threshold, names),
    )
    print(describe(files))
    print(f'Wrote {", ".join(f"{file.path.name} ({file.seconds:.0f} s)" for file in files)} to {args.output}.')
    if not args.dataset:
        return
    of_model = {name: getattr(args, name) for name in OF_MODEL}
    found: Dict[str, float] = {'PyTorch': _mean_average_precision(args, trained, **of_model)}
    for file in files:
        found[Path(file.path).name] = _mean_average_precision(args, None, checkpoint=str(file.path))
    print('mAP: ' + ', '.join(f'{name} {value:.4f}' for name, value in found.items()))
