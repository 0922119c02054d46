"""Label your images: `gkgnet_timm.predict_images`, with rows and files."""

import argparse
import os
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain, islice
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch.nn as nn
from PIL import Image
from tqdm import tqdm

from ..data import BadImageError, Decoder
from ..data.images import count_unreadable, drop_duplicates, find_images
from ..data.progress_bar import ProgressBar
from ..inference.extras import Embeddings, sidecar, write_sidecars
from ..inference.prediction_file import FORMATS, Kept, PredictionFile, Row, check_again, keep_rows, output_format
from ..inference.prediction_run import check_run, describe_run, write_run
from ..inference.predictor import Prediction, image_outputs, probabilities
from ..runtime import is_url, locked
from ..weights.content import reading_once
from ..weights.file import TrainedWith
from .flags.checks import check_outputs
from .flags.predict import create_parser
from .selected import READING_OPTIONS, load_labelled, parse_over_checkpoint, run_options, select_threshold

RESUMABLE = ('csv', 'jsonl')


def parse_args(argv: Optional[List[str]] = None) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line over the flags of the checkpoint, and return what that was trained with.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If flags are out of range or contradict each other.
    """
    args, trained = parse_over_checkpoint(create_parser(), argv)
    args.format = output_format(args.format, args.output)
    if args.resume and (not args.output or args.format not in RESUMABLE):
        raise ValueError('--resume needs an --output FILE in csv or jsonl.')
    if args.all_scores and (args.topk or args.threshold is not None):
        raise ValueError('--all-scores leaves nothing out: give it without --topk and --threshold.')
    if args.embeddings and not args.embeddings.endswith('.npz'):
        raise ValueError(f'--embeddings {args.embeddings!r}: give a file that ends in .npz.')
    if args.embeddings and args.resume:
        raise ValueError('--embeddings are of all images: give it without --resume.')
    check_outputs(args, ('output', 'embeddings'))
    Decoder(**_reading(args))  # checks its arguments
    return args, trained


def _reading(args: argparse.Namespace) -> Dict[str, Any]:
    return {name: getattr(args, name) for name in READING_OPTIONS}


def _check_output(args: argparse.Namespace, files: List[str]) -> None:
    """Raise a ValueError if the output would overwrite what is read."""
    if args.output is None:
        return
    suffix = os.path.splitext(args.output)[1].lower()
    if suffix[1:] not in FORMATS and suffix in Image.registered_extensions():  # to list them imports all of Pillow
        raise ValueError(
            f'--output {args.output!r} has the name of an image: give one that ends in .csv, .json or .jsonl.'
        )
    read = [args.checkpoint, args.threshold, args.class_map, *args.images, *files]
    if os.path.realpath(args.output) in {os.path.realpath(path) for path in read if path}:
        raise ValueError(f'--output {args.output!r} is read by this command: give another file.')


def _is_file(output: Optional[str]) -> bool:
    """Whether the output is a file or becomes one: neither stdout nor a device, a pipe."""
    return output is not None and (os.path.isfile(output) or not os.path.exists(output))


def _lock(output: Optional[str]) -> AbstractContextManager:
    """Keep other runs from the output, whose rows would get between those of this one."""
    if not _is_file(output):
        return nullcontext()
    folder, name = os.path.split(os.path.realpath(output))
    return locked(folder, 'predict', name)


def _row(prediction: Prediction, names: List[str], threshold: np.ndarray, topk: Optional[int]) -> Row:
    file, scores, error = prediction
    if error:
        return dict(file=file, error=error)
    if not np.isfinite(scores).all():
        raise ValueError(f'Scores of {file!r} are not finite: broken weights, or numbers too large for --amp-dtype.')
    order = np.argsort(-scores, kind='stable')
    chosen = order[(scores >= threshold)[order]][:topk].tolist()
    return dict(file=file, labels=[dict(label=names[i], score=round(float(scores[i]), 6)) for i in chosen])


def _batches(
    predictions: Iterator[Prediction], names: List[str], threshold: np.ndarray, args: argparse.Namespace
) -> Iterator[List[Row]]:
    """Yield the rows of each batch. An unreadable image is reported, or ends the run if the flags say so."""
    while batch := list(islice(predictions, args.batch_size)):
        for file, _, error in batch:
            if error and args.on_bad_image == 'error':
                raise BadImageError(f'Cannot read image {file!r}: {error}')
            if error:
                tqdm.write(f'Cannot read image {file!r}: {error}', file=sys.stderr)
        yield [_row(prediction, names, threshold, args.topk) for prediction in batch]


def main(argv: Optional[List[str]] = None) -> None:
    """Predict what the flags select.

    Raises:
        SystemExit: With status 1, after all else is done, if images cannot be read.
    """
    with ExitStack() as until_the_end:
        with reading_once():
            args, trained = parse_args(argv)
            files = find_images(args.images)
            _check_output(args, files)
            until_the_end.enter_context(_lock(args.output))
            kept = keep_rows(args.output, args.format, files, args.batch_size) if args.resume else Kept([], 0, 0)
            model, names = load_labelled(args, trained)
        unreadable = _predict(args, trained, files, kept, model, names)
    if unreadable:
        print(count_unreadable(unreadable, files), file=sys.stderr)
        sys.exit(1)


def _check_sidecars(files: List[str]) -> None:
    """Raise an error if a text beside an image would be that of another, or of somebody else."""
    owners: Dict[str, str] = {}
    for file in files:
        if is_url(file):
            raise ValueError(f'--sidecar: {file!r} is a URL, beside which nothing can be written. Give --output.')
        text = sidecar(file)
        if text in owners:
            raise ValueError(f'--sidecar: {owners[text]!r} and {file!r} would both have {text!r}. Rename one of them.')
        if os.path.exists(text):
            raise FileExistsError(f'--sidecar: {text!r} exists. Move it away, it would be overwritten.')
        owners[text] = file


def _predict(
    args: argparse.Namespace,
    trained: Optional[TrainedWith],
    files: List[str],
    kept: Kept,
    model: nn.Module,
    names: List[str],
) -> int:
    """Write the rows of image files, and return how many of these cannot be read."""
    if args.format == 'csv' and any(';' in name for name in names):
        raise ValueError('A class name has the ";" that separates labels in csv, give --format json or jsonl.')
    no_threshold = args.threshold is None and (args.topk or args.all_scores)
    threshold = np.asarray(0.0 if no_threshold else select_threshold(args, model, names), dtype=np.float32)
    decoder, run = Decoder(**_reading(args)).for_model(model.pretrained_cfg), None
    if _is_file(args.output) and args.format in RESUMABLE:
        run = describe_run(model, names, threshold, args.topk, args.amp_dtype if args.amp else None, decoder)
    again = [] if kept.files and check_run(args.output, run) else kept.again
    todo = drop_duplicates(files, done=kept.files)
    for difference in decoder.differences():
        print(f'Warning: {difference}.', file=sys.stderr)
    if args.sidecar:
        _check_sidecars(todo)
    options = dict(run_options(args), **_reading(args), find=False, device=args.device)
    embeddings = Embeddings(model) if args.embeddings else None
    outputs = image_outputs(model, [*again, *todo], forward=embeddings and embeddings.forward, **options)
    outputs = embeddings.keep(outputs) if embeddings else outputs
    predictions = ((file, probabilities(logits), error) for file, logits, error in outputs)
    batches = _batches(predictions, names, threshold, args)
    unreadable = kept.unreadable
    with ProgressBar(len(files), 'predicting', initial=len(files) - len(todo), leave=True) as bar:
        if again:
            thresholds = dict(zip(names, np.broadcast_to(threshold, len(names)).tolist()))
            check_again(args.output, args.format, next(batches), kept, thresholds)
        first = list(islice(batches, 1))  # before the output is opened: a run that fails at once leaves it as it is
        with PredictionFile(args.output, args.format, todo, kept.size) as output:
            if run:
                write_run(args.output, run)
            for rows in chain(first, batches):
                unreadable += sum('error' in row for row in rows)
                output.write(rows)
                if args.sidecar:
                    write_sidecars(rows)
                bar.update(len(rows))
    if embeddings:
        embeddings.save(args.embeddings)
    if trained and trained.has_ema:
        print(trained.describe_weights(args.use_ema), file=sys.stdout if args.output else sys.stderr)
    return unreadable
