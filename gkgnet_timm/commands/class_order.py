"""Recovery of class names: of the columns of a published `.data` file, or of the outputs of a model."""

import argparse
import contextlib
import sys
from typing import List, Optional

import numpy as np
import torch

from ..data.class_order import compare_class_order, describe_order
from ..data.readers.base import first_names
from ..evaluation.answers import AnswerOrder, find_order
from ..inference.device import start_process
from ..runtime import replacing
from .evaluated import check_weights, evaluate_model, parse_evaluation
from .flags.checks import check_outputs
from .flags.class_order import create_parser

CLOSEST = 5  # classes that are listed


def _check_files(args: argparse.Namespace) -> None:
    """Raise a ValueError unless the flags are two files, and nothing that is for a model."""
    parser = create_parser()
    others = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    others = [f'--{name.replace("_", "-")}' for name in others if name not in ('data', 'json', 'output')]
    if not args.json:
        raise ValueError(
            'Give FILE.data and INSTANCES.json to name the columns of the one, or --checkpoint FILE or --model NAME '
            '--pretrained to name the outputs of a model.'
        )
    if others:
        raise ValueError(f'{", ".join(others)}: for the answers of a model, not for {args.data!r}. Leave out either.')


def _describe(order: AnswerOrder, names: List[str], index: int) -> str:
    outputs, (first, second) = (order.outputs[index] + 1, order.rivals[index] + 1), order.ap[:, index]
    return f'{names[index]!r} (output {outputs[0]} AP {first:.2f}, output {outputs[1]} AP {second:.2f})'


def _check_certain(order: AnswerOrder, names: List[str], images: int) -> None:
    """Raise a ValueError that names the classes whose output is not certain, and why."""
    is_absent = order.positives == 0
    absent = [names[i] for i in np.flatnonzero(is_absent)]
    reasons = [f'no image has {first_names(absent)}'] if absent else []
    for output in np.unique(order.outputs[order.is_shared])[:CLOSEST]:
        of_classes = [names[i] for i in np.flatnonzero(order.is_shared & (order.outputs == output))]
        reasons.append(f'output {output + 1} is the best of {first_names(of_classes)}')
    close = np.flatnonzero(~order.is_ahead & ~is_absent)
    if len(close):
        shown = [_describe(order, names, i) for i in close[:CLOSEST]] + ['...'] * (len(close) > CLOSEST)
        reasons.append(f'no output is clearly the best of {", ".join(shown)}')
    if reasons:
        raise ValueError(
            f'The answers on {images} images leave {(~order.is_certain).sum()} of {len(names)} classes open: '
            f'{"; ".join(reasons)}. Give more images: a larger --max-images or another --split.'
        )


def _report(order: AnswerOrder, names: List[str], found: List[str], images: int, advice: str) -> str:
    """Say how the order differs from the assumed one, and how certain it is."""
    others = [i for i, (a, b) in enumerate(zip(found, names)) if a != b]
    shown = [f'output {i + 1} is {found[i]!r}, not {names[i]!r}' for i in others[:3]] + ['...'] * (len(others) > 3)
    closest = np.argsort(order.lead, kind='stable')[:CLOSEST]
    verdict = (
        f'{len(others)} of {len(names)} outputs are not in the order that is assumed: {", ".join(shown)}.'
        if others
        else f'The {len(names)} outputs are in the order that is assumed, that of the classes of the split.'
    )
    lines = [f'  {order.lead[i]:.1f} standard errors: {_describe(order, names, i)}' for i in closest]
    return '\n'.join(
        [f'{images} images evaluated, mAP {order.ap[0].mean():.4f}. {verdict}{advice}', 'Closest:', *lines]
    )


def _name_outputs(argv: List[str]) -> None:
    """Name the outputs of the model of the flags."""
    args, trained = parse_evaluation(argv, create_parser())
    if args.data:
        raise ValueError(f'{args.data!r}: a file is compared without a model. Leave out --checkpoint and --model.')
    check_outputs(args, ('output',))
    check_weights(args, trained)
    process = start_process(args.device)
    kind = 'ema' if trained and trained.takes_average(args.use_ema) else 'raw'
    with contextlib.redirect_stdout(sys.stdout if args.output else sys.stderr):  # stdout is for the names
        evaluation = evaluate_model(args, trained, process, [kind], max_images=args.max_images)[0][kind]
    if process.is_distributed:
        torch.distributed.destroy_process_group()
    if process.is_primary:
        names, images = evaluation.class_names, len(evaluation.targets)
        order = find_order(evaluation.ranking, evaluation.targets)
        _check_certain(order, names, images)
        found = [names[i] for i in np.argsort(order.outputs)]
        advice = '' if trained else ' Give the names to weights install --class-order, or to convert --class-order.'
        _write(args.output, found, _report(order, names, found, images, advice))


def _write(path: Optional[str], names: List[str], report: str) -> None:
    text = '\n'.join(names) + '\n'
    if path:
        with replacing(path) as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    # the report must not come among the names
    print(report, file=sys.stdout if path else sys.stderr)


def main(argv: Optional[List[str]] = None) -> None:
    """Recover the class order, write it, and print how it compares with the one that is assumed."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_parser().parse_args(argv)
    if args.checkpoint or args.model:
        _name_outputs(argv)
    else:
        _check_files(args)
        order = compare_class_order(args.data, args.json)
        _write(args.output, order.class_names, describe_order(order, args.data, args.json))
