"""Draw where labels looked: `gkgnet_timm.explain`, with files."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch.nn as nn
from tqdm import tqdm

from ..data import BadImageError
from ..data.images import find_images
from ..data.progress_bar import ProgressBar
from ..evaluation.figures import save_figure
from ..explanation.explain import explain
from ..inference.device import check_device
from ..inference.predictor import class_names_of
from ..inference.program import is_program
from ..runtime import check_ranges, replacing
from ..weights.content import reading_once
from ..weights.file import TrainedWith, read_training
from ..weights.thresholds import load_threshold
from .flags.checks import RANGES
from .flags.explain import create_parser
from .selected import READING_OPTIONS, load_named, model_defaults, select_weights


def parse_args(argv: Optional[List[str]] = None) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line over the flags of the checkpoint, and return what that was trained with.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If flags are out of range or contradict each other.
    """
    parser = create_parser()
    args = parser.parse_args(argv)
    given = [f'--{name}' for name in ('labels', 'topk', 'patch') if getattr(args, name) is not None]
    if len(given) > 1:
        raise ValueError(f'{" and ".join(given)}: give one of them.')
    if is_program(args.checkpoint):
        raise ValueError(f'--checkpoint {args.checkpoint!r} is an exported model: give what it was exported from.')
    checkpoint = select_weights(args.checkpoint) if args.checkpoint else None
    trained = read_training(checkpoint) if checkpoint else None
    if trained:
        args = parser.parse_args(argv, argparse.Namespace(**model_defaults(checkpoint, trained)))
    args.checkpoint = checkpoint
    check_ranges(args, RANGES)
    return args, trained


def _outputs(files: List[str], folder: str, formats: List[str]) -> Dict[str, List[Path]]:
    """Return the files to write for each image, pictures first.

    Raises:
        ValueError: If two images have the same name, or an image would be overwritten.
    """
    images = {os.path.realpath(file) for file in files}
    owners: Dict[Path, str] = {}
    outputs: Dict[str, List[Path]] = {}
    for file in files:
        outputs[file] = [Path(folder, f'{Path(file).stem}.{suffix}') for suffix in (*dict.fromkeys(formats), 'json')]
        for path in outputs[file]:
            if path in owners:
                raise ValueError(
                    f'{owners[path]!r} and {file!r} would both be explained in {str(path)!r}: rename one, or give them '
                    'apart with another --output.'
                )
            if os.path.realpath(path) in images:
                raise ValueError(f'{str(path)!r} is one of the images, it would be overwritten: give another --output.')
            owners[path] = file
    return outputs


def main(argv: Optional[List[str]] = None) -> None:
    """Explain what the flags select.

    Raises:
        SystemExit: With status 1, after all else is done, if images cannot be read.
    """
    with reading_once():
        args, trained = parse_args(argv)
        files = find_images(args.images)
        outputs = _outputs(files, args.output, args.format)
        model, names = load_named(args, trained)
    names = names or class_names_of(model)
    model.to(check_device(args.device))
    os.makedirs(args.output, exist_ok=True)
    options = {name: getattr(args, name) for name in (*READING_OPTIONS, 'labels', 'topk', 'patch', 'stages')}
    if args.threshold is not None:
        options['threshold'] = load_threshold(args.threshold, names)
    unreadable = _explain_files(model, outputs, dict(options, class_names=names))
    if trained and trained.has_ema:
        print(trained.describe_weights(args.use_ema))
    done = len(files) - unreadable
    print(f'Wrote the pictures and patches of {done} image{"s" * (done != 1)} to {args.output}.')
    if unreadable:
        print(f'{unreadable} of {len(files)} images cannot be read.', file=sys.stderr)
        sys.exit(1)


def _explain_files(model: nn.Module, outputs: Dict[str, List[Path]], options: Dict[str, Any]) -> int:
    """Write the pictures and patches of images, and return how many cannot be read."""
    unreadable = 0
    with ProgressBar(len(outputs), 'explaining') as bar:
        for file, (*pictures, patches) in outputs.items():
            try:
                explanation = explain(model, file, **options)
            except BadImageError as error:
                tqdm.write(str(error), file=sys.stderr)
                unreadable += 1
            else:
                figure = explanation.draw()
                for path in pictures:
                    save_figure(figure, path)
                with replacing(patches) as output:
                    output.write('[' + ',\n '.join(map(json.dumps, explanation.to_json())) + ']\n')
            bar.update()
    return unreadable
