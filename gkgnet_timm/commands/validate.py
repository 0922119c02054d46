"""Evaluate checkpoints and pretrained models on a labelled split."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import List, Optional, Tuple, Union

import numpy as np
import torch

from ..data import Decoder
from ..evaluation.answers import find_permutation
from ..evaluation.class_report import class_report, write_class_report
from ..evaluation.evaluate import Evaluation, evaluate_scores
from ..evaluation.plots import draw_plots
from ..evaluation.results import Result, class_table, in_decimals, write_results
from ..evaluation.scores_file import save_scores
from ..evaluation.thresholds import calibrate, save_thresholds
from ..inference.device import Process, start_process
from ..inference.precision import agree_on_amp
from ..metrics import average_precision, chance_level, multilabel_metrics
from ..metrics.ranks import on_first_rank, together
from ..report.looks import create_look
from ..report.page import write_report
from ..report.thumbnails import images_of_files
from ..runtime import command_line, one_line
from ..weights.file import TrainedWith
from .evaluated import check_weights, evaluate_model, is_folder_of_checkpoints, load_evaluated, parse_evaluation
from .flags.checks import check_outputs
from .flags.validate import create_parser
from .jobs import list_jobs

OF_ONE_MODEL = ('metrics_by_class', 'calibrate', 'scores_out', 'plots', 'report')  # each model would overwrite them
SELECTING = ('model', 'checkpoint', 'dataset', 'data_dir', 'split')


def parse_args(argv: List[str]) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line, see `parse_evaluation`.

    Raises:
        ValueError: If there is nothing to evaluate, or flags contradict each other.
    """
    args, trained = parse_evaluation(argv, create_parser(), takes_several=True)
    check_outputs(args, ('results_file', 'metrics_by_class', 'calibrate', 'scores_out'), ('plots', 'report'))
    if args.scores_in and args.use_ema:
        raise ValueError(f'--use-ema: {args.scores_in!r} has scores, not averaged weights.')
    if args.scores_in and args.report:
        for name in ('images', 'data_dir'):
            if (folder := getattr(args, name)) and not Path(folder).is_dir():
                flag = f'--{name.replace("_", "-")}'
                raise NotADirectoryError(f'{flag} {folder!r} is no folder: --report takes pictures from it.')
    if not args.scores_in and not is_folder_of_checkpoints(args.checkpoint):  # each is checked when its turn comes
        check_weights(args, trained)
    return args, trained


def _write_files(
    args: argparse.Namespace, trained: Optional[TrainedWith], process: Process, evaluation: Evaluation, of: Result
) -> None:
    """Print the table of classes, write what the flags ask for, and say so."""
    metrics, scores, ranking, targets, files, class_names, threshold, *_ = evaluation
    rows = class_report(scores, targets, class_names, threshold, ranking)
    print(f'\n{class_table(rows)}\n')
    if args.metrics_by_class:
        write_class_report(args.metrics_by_class, rows)
    if args.calibrate:
        thresholds, of_all = calibrate(scores, targets)
        save_thresholds(args.calibrate, class_names, thresholds, of_all)
        after = multilabel_metrics(scores.astype(np.float32), targets, thresholds)  # as a model's scores are compared
        changes = [f'{name} {metrics[name]:.4f} before, {after[name]:.4f} after' for name in ('CF1', 'OF1')]
        print(f'Thresholds of the classes, on these images: {"; ".join(changes)}.')
    if args.scores_out:
        is_logits = ranking is not scores
        save_scores(args.scores_out, scores, targets, files, class_names, ranking if is_logits else None)
    if args.plots:
        draw_plots(args.plots, scores, targets, class_names, threshold, ranking)
    written = [path for name in OF_ONE_MODEL if name != 'report' and (path := getattr(args, name))]
    if args.report:
        written.append(str(_write_report(args, trained, process, evaluation, of)))
    if written:
        print(f'Wrote {", ".join(written)}.')


def _write_report(
    args: argparse.Namespace, trained: Optional[TrainedWith], process: Process, evaluation: Evaluation, of: Result
) -> Path:
    """Write the page of --report."""
    if args.scores_in:
        decoder = Decoder(args.bit_depth, args.background, args.max_pixels)
        read_image = images_of_files(evaluation.files, (args.images, args.data_dir), decoder)
        return write_report(args.report, evaluation._replace(read_image=read_image), of)
    model = load_evaluated(args, trained, len(evaluation.class_names)).to(process.device)
    return write_report(args.report, evaluation, of, create_look(model, evaluation.class_names))


def _describe_permutation(args: argparse.Namespace, evaluation: Evaluation, outputs: np.ndarray) -> str:
    """Say which classes look permuted, and how to find their order."""
    names = evaluation.class_names
    moved = np.flatnonzero(outputs != np.arange(len(outputs)))
    shown = [f'those of {names[i]!r} by the output of {names[outputs[i]]!r}' for i in moved[:3]]
    shown += ['...'] * (len(moved) > 3)
    mAP = 100 * average_precision(evaluation.ranking[:, outputs], evaluation.targets).mean()
    flags = [f'--{name.replace("_", "-")}={value}' for name in SELECTING if (value := getattr(args, name))]
    flags += ['--pretrained'] * args.pretrained
    remedy = f'Check it: {command_line("class-order", *flags)}, with the other flags of this command.'
    remedy = 'Run class-order with the model of these scores.' if args.scores_in else remedy
    return (
        f'Warning: {len(moved)} classes look permuted, their images are ranked best by outputs of others: '
        f'{", ".join(shown)}; with these exchanged the mAP is {mAP:.4f}. {remedy}'
    )


def _of_rows(evaluation: Evaluation) -> Result:
    return dict(images=len(evaluation.targets), chance=chance_level(evaluation.targets))


def validate(
    args: argparse.Namespace, trained: Optional[TrainedWith], process: Process, is_only: bool = True
) -> Result:
    """Evaluate a model, or a file of scores, print the metrics and return the result. Of the only one, also print the
    table of classes and write what the flags ask for."""
    if args.scores_in:
        evaluations = dict(raw=evaluate_scores(args.scores_in, args.threshold))
        result: Result = dict(scores=args.scores_in)
    else:
        args.amp = agree_on_amp(args.amp, args.amp_dtype, process)
        kinds = ('raw', 'ema') if trained and trained.has_ema else ('raw',)
        evaluations, result = evaluate_model(args, trained, process, kinds, args.threshold)
    headline = evaluations['ema' if trained and trained.takes_average(args.use_ema) else 'raw']
    result.update(on_first_rank(partial(_of_rows, headline), process.device), **headline.metrics)
    several = len(evaluations) > 1
    if several:
        result.update({f'mAP_{kind}': evaluation.metrics['mAP'] for kind, evaluation in evaluations.items()})

    def tell() -> None:
        for kind, evaluation in evaluations.items():
            metrics = evaluation.metrics
            weights = f'{kind} weights: ' if several else ''
            present = f' ({metrics["mAP_present"]:.4f} over classes with positives)'
            present = present if metrics['mAP_present'] != metrics['mAP'] else ''
            print(f'{weights}mAP {metrics["mAP"]:.4f}{present}, CF1 {metrics["CF1"]:.4f}, OF1 {metrics["OF1"]:.4f}')
        if several:
            print(trained.describe_weights(args.use_ema))
        if 'warning' in result:
            print(f'Warning: {result["warning"]}')
        if (outputs := find_permutation(headline.ranking, headline.targets)) is not None:
            print(_describe_permutation(args, headline, outputs))
        if is_only:
            _write_files(args, trained, process, headline, result)

    on_first_rank(tell, process.device)
    return result


def main(argv: Optional[List[str]] = None) -> Union[Result, List[Result]]:
    """Evaluate what the flags select, print the result with four decimals and return it: that of a model, or those of
    several models, best first."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args, trained = parse_args(argv)
    jobs = list_jobs(args)
    files = ', '.join(f'--{name.replace("_", "-")}' for name in OF_ONE_MODEL if getattr(args, name))
    if files and len(jobs) > 1:
        raise ValueError(f'{files}: for one model only, these are {len(jobs)}. Give one --checkpoint or --model.')
    process = start_process(args.device)
    results, failed = [], []
    for number, (flags, also) in enumerate(jobs, 1):
        if len(jobs) > 1 and process.is_primary:
            names = f' = {", ".join(also)}' if also else ''
            print(f'[{number}/{len(jobs)}] {flags[1]}{names}', flush=True)
        try:
            with together():
                parsed = parse_args([*argv, *flags]) if flags else (args, trained)
            result = validate(*parsed, process, is_only=len(jobs) == 1)
            results.append(dict(result, also=', '.join(also)) if also else result)
        except Exception as error:  # whatever it is, the results of the other models are not lost
            if len(jobs) == 1:
                raise
            failed.append(flags[1])
            if process.is_primary:
                print(f'{flags[1]}: {type(error).__name__}: {one_line(error)}', flush=True)
    if not results:
        raise ValueError(f'None of {len(jobs)} models could be evaluated.')
    results.sort(key=lambda result: result['mAP'], reverse=True)
    output = results if len(jobs) > 1 else results[0]
    if process.is_primary:
        shown = [in_decimals(result) for result in results]
        shown = shown if len(jobs) > 1 else shown[0]
        if args.results_file:
            write_results(args.results_file, shown, args.results_format)
            print(f'Wrote {args.results_file}.')
        print(f'--result\n{json.dumps(shown, indent=4)}')
    if process.is_distributed:
        torch.distributed.barrier()  # until that is written: launchers stop all processes when one fails
        torch.distributed.destroy_process_group()
    if failed:
        raise ValueError(f'{len(failed)} of {len(jobs)} models could not be evaluated: {", ".join(failed)}.')
    return output
