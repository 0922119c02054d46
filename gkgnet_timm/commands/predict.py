"""Labels of one's own images.

The same in Python:

    model = timm.create_model('gkgnet_576', pretrained=True, pretrained_cfg_overlay=dict(file='GKGNet-576.pth')).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    scores = dict(zip(model.pretrained_cfg['label_names'], model(transform(image)[None]).sigmoid()[0].tolist()))
"""

import argparse
import os
import sys
from itertools import chain, islice
from typing import Any, Dict, List, Optional

import numpy as np
from tqdm import tqdm

from timm.data import resolve_input_data_config

from ..class_names import read_class_map
from ..data import BadImageError
from ..data.images import drop_duplicates, find_images
from ..evaluation.thresholds import load_threshold
from ..inference.prediction_file import FORMATS, Kept, PredictionFile, check_again, keep_rows, output_format
from ..inference.predictor import Prediction, class_names_of, predict
from ..weights.file import read_checkpoint_args
from ..weights.load import load_model
from .flags.checks import check_outputs, check_ranges, check_weights
from .flags.groups import KeyValues, add_run_args

_DESCRIPTION = (
    'Labels of images, highest score first. Every image gets a row: csv has the columns file, labels and scores, with '
    '";" between several, and error; json has a list of {"file", "labels": [{"label", "score"}, ...]}, jsonl one on '
    'each line. An image that can not be read has "error" in place of labels, is reported on stderr, and makes the '
    'exit status 1 when all others are done.'
)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Flags of the command line over those of the checkpoint, which are in `trained` (empty where it does not say).

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If there is nothing to predict with, or flags contradict.
    """
    parser = argparse.ArgumentParser(prog='python -m gkgnet_timm predict', description=_DESCRIPTION)
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGES',
        help='images, glob patterns (** for any folders), folders with all in them, or .txt files with a path on each '
        'line, from the current folder',
    )
    group = parser.add_argument_group('model')
    group.add_argument('--checkpoint', '--pretrained-path', metavar='FILE', help='of train_multilabel.py, which says '
                       'all else about the model; or weights for --model, such as the published ones')  # fmt: skip
    group.add_argument('--use-ema', action='store_true', help='the average of the weights in the checkpoint')
    group.add_argument('--model', metavar='NAME', help='any timm model')
    group.add_argument('--pretrained', action='store_true', help='the pretrained weights of --model')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    group.add_argument('--class-map', metavar='FILE', help='class names, one on each line, for weights without them')
    group = parser.add_argument_group('labels')
    group.add_argument('--threshold', default='0.5', metavar='T', help='lowest score of a label, or a file of '
                       'validate.py --calibrate with one for each class (default: %(default)s)')  # fmt: skip
    group.add_argument('--topk', type=int, metavar='N', help='at most so many labels of an image')
    group = parser.add_argument_group('output')
    group.add_argument('--output', metavar='FILE', help='(default: stdout)')
    group.add_argument('--format', choices=FORMATS, help='(default: by the suffix of --output; on stdout table on a '
                       'terminal, else jsonl)')  # fmt: skip
    group.add_argument('--resume', action='store_true', help='go on with an interrupted --output of format csv or '
                       'jsonl: give all other flags as before. Images that have a row are not done again')  # fmt: skip
    add_run_args(parser)
    parser.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    parser.add_argument('-j', '--workers', type=int, default=min(4, os.cpu_count() or 1), metavar='N',
                        help='processes that load images (default: %(default)s)')  # fmt: skip
    parser.set_defaults(class_names=None, amp_dtype='bfloat16', on_bad_image='skip')
    args = parser.parse_args(argv)
    trained = read_checkpoint_args(args.checkpoint) if args.checkpoint else {}
    parser.set_defaults(trained=trained)
    if trained:
        names = ('model', 'model_kwargs', 'img_size', 'amp', 'amp_dtype', 'channels_last', 'class_names')
        parser.set_defaults(**{name: trained[name] for name in names})
    args = parser.parse_args(argv)
    check_ranges(args)
    check_weights(args)
    args.format = output_format(args.format, args.output)
    if args.resume and (not args.output or args.format not in ('csv', 'jsonl')):
        raise ValueError('--resume goes on with an --output FILE of format csv or jsonl only.')
    check_outputs(args, ('output',))
    return args


def _row(prediction: Prediction, names: List[str], threshold: np.ndarray, topk: Optional[int]) -> Dict[str, Any]:
    file, scores, error = prediction
    if error:
        return dict(file=file, error=error)
    if not np.isfinite(scores).all():
        raise ValueError(f'Scores of {file!r} are not finite: broken weights, or too large numbers for --amp-dtype.')
    order = np.argsort(-scores, kind='stable')
    chosen = order[(scores >= threshold)[order]][:topk].tolist()
    return dict(file=file, labels=[dict(label=names[i], score=round(float(scores[i]), 6)) for i in chosen])


def _rows(
    batch: List[Prediction], names: List[str], threshold: np.ndarray, args: argparse.Namespace
) -> List[Dict[str, Any]]:
    """Rows of a batch. An unreadable image is reported, or ends the run where the flags say so."""
    for file, _, error in batch:
        if error and args.on_bad_image == 'error':
            raise BadImageError(f'Cannot read image {file!r}: {error}')
        if error:
            tqdm.write(f'Cannot read image {file!r}: {error}', file=sys.stderr)
    return [_row(prediction, names, threshold, args.topk) for prediction in batch]


def main(argv: Optional[List[str]] = None) -> None:
    """Predict as the flags say.

    Raises:
        SystemExit: With status 1 behind all else, if images can not be read.
    """
    args = parse_args(argv)
    files = find_images(args.images)
    kept = keep_rows(args.output, args.format, files, args.batch_size) if args.resume else Kept([], 0, 0)
    names = args.class_names
    if args.class_map:
        names = read_class_map(args.class_map)
        if args.class_names not in (None, names):
            raise ValueError(
                f'--class-map {args.class_map!r} has other names than checkpoint {args.checkpoint!r}, which brings its '
                'own: leave it out.'
            )
    model = load_model(args, len(names) if names else None, args.use_ema)
    names = names or class_names_of(model)
    if args.format == 'csv' and any(';' in name for name in names):
        raise ValueError('A class name has the ";" that separates labels in csv, give --format json or jsonl.')
    threshold = np.asarray(load_threshold(args.threshold, names), dtype=np.float32)
    data_config = resolve_input_data_config(model, args=vars(args))
    todo = drop_duplicates(files, done=kept.files)
    unreadable = kept.unreadable
    batches = (_rows(x, names, threshold, args) for x in predict(model, [*kept.again, *todo], data_config, args))
    # no bar but on a terminal
    with tqdm(total=len(files), initial=len(files) - len(todo), unit='img', disable=None) as bar:
        if kept.again:
            check_again(args.output, args.format, next(batches), kept)
        first = list(islice(batches, 1))  # before the output is opened, which a run that fails at once leaves as it is
        with PredictionFile(args.output, args.format, todo, kept.size) as output:
            for rows in chain(first, batches):
                unreadable += sum('error' in row for row in rows)
                output.write(rows)
                bar.update(len(rows))
    if unreadable:
        print(f'{unreadable} of {len(kept.files) + len(todo)} images can not be read.', file=sys.stderr)
        sys.exit(1)
