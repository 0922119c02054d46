"""Label your images: `gkgnet_timm.predict_images`, with rows and files."""

import argparse
import os
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain, islice
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

from ..data import Decoder
from ..data.images import count_unreadable, find_images
from ..data.progress_bar import ProgressBar
from ..data.shards import find_shards
from ..inference.device import Process, start_process
from ..inference.extras import Embeddings, check_sidecars, write_sidecars
from ..inference.kept_rows import Kept, check_again
from ..inference.parts import check_other_parts, counts_if_joined, join_parts, part_names
from ..inference.precision import choose_amp
from ..inference.prediction_file import FORMATS, PredictionFile, output_format
from ..inference.prediction_rows import batches_of_rows
from ..inference.prediction_run import check_run, describe_run, write_run
from ..inference.predictor import probabilities
from ..inference.ranks import Ranks
from ..inference.share import ImageShare, ShardShare
from ..runtime import locked
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


def _check_parts(args: argparse.Namespace, process: Process) -> None:
    """Raise a ValueError if flags ask for what parts of an output cannot be."""
    why = f'{process.world_size} processes' if process.is_distributed else '--parts'
    if not _is_file(args.output):
        raise ValueError(f'--output FILE is needed with {why}: parts are written beside it.')
    if args.format == 'table':
        raise ValueError(f'--format table: not with {why}. Give csv, json or jsonl.')
    if args.embeddings:
        raise ValueError(f'--embeddings: not with {why}. Run it in one process.')


def _check_output(args: argparse.Namespace, outputs: Sequence[str], files: List[str]) -> None:
    """Raise a ValueError if an output would overwrite what is read."""
    if args.output is None:
        return
    suffix = os.path.splitext(args.output)[1].lower()
    if suffix[1:] not in FORMATS and suffix in Image.registered_extensions():  # to list them imports all of Pillow
        raise ValueError(
            f'--output {args.output!r} has the name of an image: give one that ends in .csv, .json or .jsonl.'
        )
    read = [args.checkpoint, args.threshold, args.class_map, *args.images, *files]
    read = {os.path.realpath(path) for path in read if path}
    if path := next((path for path in outputs if os.path.realpath(path) in read), None):
        raise ValueError(f'--output {path!r} is read by this command: give another file.')


def _is_file(output: Optional[str]) -> bool:
    """Whether the output is a file or becomes one: neither stdout nor a device, a pipe."""
    return output is not None and (os.path.isfile(output) or not os.path.exists(output))


def _lock(output: Optional[str]) -> AbstractContextManager:
    """Keep other runs from the output, whose rows would get between those of this one."""
    if not _is_file(output):
        return nullcontext()
    folder, name = os.path.split(os.path.realpath(output))
    return locked(folder, 'predict', name)


class Job(NamedTuple):
    """What one process does."""

    args: argparse.Namespace
    trained: Optional[TrainedWith]
    share: Union[ImageShare, ShardShare]
    model: nn.Module
    names: List[str]
    threshold: np.ndarray
    output: Optional[str]  # the file of this process
    parts: List[str]  # those of all processes, none if there is only one file
    kept: Kept
    again: Sequence[str]  # images of kept rows to repeat
    run: Optional[Dict[str, Any]]  # what decides the rows
    joined: Optional[List[int]]  # number of rows, and of unreadable images, if nothing is left to do


def main(argv: Optional[List[str]] = None) -> None:
    """Predict what the flags select, alone or as one of several processes.

    Raises:
        SystemExit: With status 1, after all else is done, if images cannot be read.
    """
    process = start_process(create_parser().parse_args(argv).device)
    ranks = Ranks(process)
    with ExitStack() as until_the_end:
        with reading_once():
            with ranks.together(), ranks.one_voice():
                args, trained = parse_args(argv)
                amp = choose_amp(args.amp, args.amp_dtype, process.device, process.is_primary)
            args.amp = ranks.gather(amp)[0]  # 'auto' measures, which may end differently in each
            with ranks.together(), ranks.one_voice():
                job = _prepare(args, trained, process, until_the_end)
        found = ranks.gather((job.share.describe() if job.parts else None, job.joined))
        with ranks.together():
            if any(other != found[0] for other in found):
                raise ValueError('The processes find different images or parts: give all the same.')
        counts = job.joined
        if not counts:
            with ranks.together(tell_at_once=True):
                counts = _label(job, process)
            counts = [sum(of_ranks) for of_ranks in zip(*ranks.gather(counts))]
            with ranks.together():
                if job.parts and process.is_primary and not job.args.parts:
                    join_parts(job.args.output, job.args.format, job.parts, job.share, job.run, counts)
        if process.is_primary:
            _report(job, *counts)
        ranks.gather(None)  # none ends before that is done
    if process.is_distributed:
        torch.distributed.destroy_process_group()
    if counts[1]:
        sys.exit(1)


def _select_share(args: argparse.Namespace, process: Process) -> Tuple[Union[ImageShare, ShardShare], List[str]]:
    """What this process labels, and the files that are read for it."""
    place = (args.batch_size, process.rank, process.world_size)
    shards = find_shards(args.images, args.split, args.input_key)
    if shards is None:
        files = find_images(args.images)
        return ImageShare(files, *place), files
    for flag in ('embeddings', 'sidecar'):
        if getattr(args, flag):
            raise ValueError(f'--{flag}: not for streams, {shards[0].name!r} is of one. Leave it out.')
    return ShardShare(shards, *place), [shard.name for shard in shards]


def _prepare(
    args: argparse.Namespace, trained: Optional[TrainedWith], process: Process, until_the_end: ExitStack
) -> Job:
    """Do all that may fail at once. No output is touched."""
    parts = []
    if process.is_distributed or args.parts:
        _check_parts(args, process)
        parts = part_names(args.output, process.world_size)
    share, files = _select_share(args, process)
    output = parts[process.rank] if parts else args.output
    _check_output(args, [args.output, *parts], files)
    for path in {args.output, output} if process.is_primary else {output}:
        until_the_end.enter_context(_lock(path))
    model, names = load_labelled(args, trained)
    if args.format == 'csv' and any(';' in name for name in names):
        raise ValueError('A class name has the ";" that separates labels in csv, give --format json or jsonl.')
    no_threshold = args.threshold is None and (args.topk or args.all_scores)
    threshold = np.asarray(0.0 if no_threshold else select_threshold(args, model, names), dtype=np.float32)
    decoder, run, joined = Decoder(**_reading(args)).for_model(model.pretrained_cfg), None, None
    if _is_file(args.output) and args.format in RESUMABLE:
        run = describe_run(model, names, threshold, args.topk, args.amp_dtype if args.amp else None, decoder)
        if parts or isinstance(share, ShardShare):
            run.update(share.describe())
    if args.resume:
        check_other_parts(args.output, process.world_size)
        if parts and os.path.exists(output):
            check_run(output, run)
        elif parts and not args.parts:
            joined = counts_if_joined(args.output, parts, run)
    kept = share.keep(output, args.format) if args.resume else Kept()
    again = [] if kept.rows and check_run(output, run) else kept.again
    for difference in decoder.differences():
        print(f'Warning: {difference}.', file=sys.stderr)
    if args.sidecar and not joined:
        check_sidecars(share.everything, share.todo)
    return Job(args, trained, share, model, names, threshold, output, parts, kept, again, run, joined)


def _label(job: Job, process: Process) -> List[int]:
    """Write the rows of this process; returns how many its file has, and how many of these images cannot be read."""
    args, share, kept = job.args, job.share, job.kept
    options = dict(run_options(args), **_reading(args), device=process.device)
    del options['batch_size']
    embeddings = Embeddings(job.model) if args.embeddings else None
    outputs = share.outputs(job.model, job.again, forward=embeddings and embeddings.forward, **options)
    outputs = embeddings.keep(outputs) if embeddings else outputs
    predictions = ((file, probabilities(logits), error) for file, logits, error in outputs)
    skip = args.on_bad_image == 'skip'
    batches = batches_of_rows(predictions, job.names, job.threshold, args.topk, args.batch_size, skip)
    counts = [kept.rows, kept.unreadable]
    what = f'predicting, process 0 of {process.world_size}' if process.is_distributed else 'predicting'
    with ProgressBar(share.total, what, initial=kept.rows, leave=True) as bar:
        if job.again:
            thresholds = dict(zip(job.names, np.broadcast_to(job.threshold, len(job.names)).tolist()))
            check_again(job.output, args.format, next(batches), kept, thresholds)
        first = list(islice(batches, 1))  # before the output is opened: a run that fails at once leaves it as it is
        with PredictionFile(job.output, args.format, share.listed, kept.size) as output:
            if job.run:
                write_run(job.output, job.run)
            for rows in chain(first, batches):
                output.write(rows)
                if args.sidecar:
                    write_sidecars(rows)
                counts = [counts[0] + len(rows), counts[1] + sum('error' in row for row in rows)]
                bar.update(len(rows))
    if embeddings:
        embeddings.save(args.embeddings)
    return counts


def _report(job: Job, rows: int, unreadable: int) -> None:
    """Say which weights were used, and how many images cannot be read."""
    if job.trained and job.trained.has_ema:
        stream = sys.stdout if job.args.output else sys.stderr
        print(job.trained.describe_weights(job.args.use_ema), file=stream, flush=True)  # launchers may end this process
    if unreadable:
        print(count_unreadable(unreadable, rows, job.share.listed), file=sys.stderr)
