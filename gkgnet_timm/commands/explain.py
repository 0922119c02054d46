"""Draw where labels looked: `gkgnet_timm.explain`, with files, and measure whether it matters."""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import torch
import torch.nn as nn
from tqdm import tqdm

from ..benchmark.tables import markdown, write_csv
from ..data import BadImageError, Decoder
from ..data.images import count_unreadable, find_images
from ..data.progress_bar import ProgressBar
from ..evaluation.figures import save_figure
from ..explanation import curves
from ..explanation.causal import Effect, conclude, measure
from ..explanation.explain import explain
from ..explanation.result import Explanation
from ..inference.device import check_device
from ..inference.precision import choose_amp
from ..inference.program import is_program
from ..runtime import replacing
from ..weights.content import reading_once
from ..weights.file import TrainedWith
from .flags.checks import check_outputs
from .flags.explain import create_parser
from .selected import READING_OPTIONS, load_labelled, parse_over_checkpoint, select_threshold

SHOWN = 20  # rows of a table that is printed
EFFECT_COLUMNS = {
    'file': 'file',
    'label': 'label',
    'score': 'score',
    'drop': 'drop',
    'random_mean': 'random drop',
    'random_sd': 'sd',
    'beats': 'share below drop',
    'area': 'area',
}
CURVE_COLUMNS = {
    'method': 'area under the curve, ± standard error',
    'deletion': 'deletion (lower is better)',
    'insertion': 'insertion (higher is better)',
}


def parse_args(argv: Optional[List[str]] = None) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line over the flags of the checkpoint, and return what that was trained with.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If flags are out of range or contradict each other.
    """
    args = create_parser().parse_args(argv)
    check_outputs(args, (), ('output',))
    given = [f'--{name}' for name in ('labels', 'topk', 'patch') if getattr(args, name) is not None]
    if len(given) > 1:
        raise ValueError(f'{" and ".join(given)}: give one of them.')
    for name in ('causal', 'evaluate', 'threshold'):
        if args.patch and getattr(args, name):
            raise ValueError(f'--{name} is about scores of labels: give no --patch.')
    if is_program(args.checkpoint):
        raise ValueError(f'--checkpoint {args.checkpoint!r} is an exported model: give what it was exported from.')
    return parse_over_checkpoint(create_parser(), argv)


def _outputs(files: List[str], folder: str, formats: List[str]) -> Dict[str, List[Path]]:
    """Return the files to write for each image, pictures first.

    Raises:
        ValueError: If two images have the same name.
    """
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
            owners[path] = file
    return outputs


def _check_nothing_is_lost(args: argparse.Namespace, outputs: Iterable[Path], files: List[str]) -> None:
    """Raise a ValueError for an output that the command reads, or that exists in a folder of the images, where others
    keep files of such names, annotations say."""
    named = [args.checkpoint, args.threshold, args.class_map, *args.images]
    read = {os.path.realpath(path) for path in (*files, *filter(None, named))}
    folders = {os.path.dirname(os.path.realpath(file)) for file in files}
    for path in outputs:
        real = os.path.realpath(path)
        if real in read:
            raise ValueError(f'{str(path)!r} is read by this command, it would be overwritten: give another --output.')
        if os.path.dirname(real) in folders and os.path.exists(real):
            raise ValueError(f'{str(path)!r} exists beside the images, it would be overwritten: give another --output.')


def main(argv: Optional[List[str]] = None) -> None:
    """Explain what the flags select.

    Raises:
        SystemExit: With status 1, after all else is done, if images cannot be read.
    """
    with reading_once():
        args, trained = parse_args(argv)
        files = find_images(args.images)
        if args.evaluate:
            written = [Path(args.output, f'curves.{suffix}') for suffix in ('csv', *dict.fromkeys(args.format))]
        else:
            outputs = _outputs(files, args.output, args.format)
            written = [path for of_image in outputs.values() for path in of_image]
            written += [Path(args.output, 'causal.csv')] * args.causal
        _check_nothing_is_lost(args, written, files)
        model, names = load_labelled(args, trained)
    memory_format = torch.channels_last if args.channels_last else torch.preserve_format
    device = check_device(args.device)
    model.to(device, memory_format=memory_format)
    amp = choose_amp(args.amp, args.amp_dtype, device)
    reading = {name: getattr(args, name) for name in READING_OPTIONS}
    for difference in Decoder(**reading).for_model(model.pretrained_cfg).differences():
        print(f'Warning: {difference}.', file=sys.stderr)
    os.makedirs(args.output, exist_ok=True)
    selected = ('labels', 'topk', 'patch', 'stages', 'amp_dtype')
    options = dict({name: getattr(args, name) for name in selected}, amp=amp, **reading)
    options.update(class_names=names, threshold=select_threshold(args, model, names))
    unreadable: List[str] = []
    explanations = _explain_files(model, files, options, unreadable)
    if args.evaluate:
        _compare(model, explanations, *written)
    else:
        effects = _draw(model, explanations, outputs, args.causal)
        if args.causal:
            _report(effects, Path(args.output, 'causal.csv'))
        done = len(files) - len(unreadable)
        print(f'Wrote the pictures and patches of {done} image{"s" * (done != 1)} to {args.output}.')
    if trained and trained.has_ema:
        print(trained.describe_weights(args.use_ema))
    if unreadable:
        print(count_unreadable(len(unreadable), len(files), files), file=sys.stderr)
        sys.exit(1)


def _explain_files(
    model: nn.Module, files: List[str], options: Dict[str, Any], unreadable: List[str]
) -> Iterator[Explanation]:
    """Yield the explanations of images, and add those that cannot be read to a list."""
    with ProgressBar(len(files), 'explaining') as bar:
        for file in files:
            try:
                explanation = explain(model, file, **options)
            except BadImageError as error:
                tqdm.write(str(error), file=sys.stderr)
                unreadable.append(file)
            else:
                yield explanation
            bar.update()


def _draw(
    model: nn.Module, explanations: Iterable[Explanation], outputs: Dict[str, List[Path]], causal: bool
) -> List[Effect]:
    """Write pictures and patches, and return the effects of the latter if these are asked for."""
    effects: List[Effect] = []
    for explanation in explanations:
        *pictures, patches = outputs[explanation.file]
        figure = explanation.draw()
        for path in pictures:
            save_figure(figure, path)
        with replacing(patches) as output:
            output.write('[' + ',\n '.join(map(json.dumps, explanation.to_json())) + ']\n')
        if causal:
            effects += measure(model, explanation)
    return effects


def _report(effects: List[Effect], path: Path) -> None:
    """Print effects and what they show, and write all of them to a table."""
    with replacing(path, newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(Effect._fields)
        writer.writerows(effects)
    if effects:
        print(markdown([effect._asdict() for effect in effects[:SHOWN]], EFFECT_COLUMNS))
    if len(effects) > SHOWN:
        print(f'... {len(effects)} labels in all, see {path}.')
    print(*conclude(effects), sep='\n')


def _compare(model: nn.Module, explanations: Iterable[Explanation], table: Path, *pictures: Path) -> None:
    """Write the curves of all methods, and print which explains better.

    Raises:
        ValueError: If no label reaches its threshold.
    """
    found = list(curves.evaluate(model, explanations))
    if not found:
        raise ValueError('No label reaches its threshold, so there is no curve to draw: give other images.')
    write_csv(str(table), curves.steps(found))
    figure = curves.draw_curves(found)
    for path in pictures:
        save_figure(figure, path, dpi=100)
    print(markdown(curves.compare(found), CURVE_COLUMNS))
    print(curves.conclude(found))
    print(f'Wrote {", ".join(str(path) for path in (table, *pictures))}.')
