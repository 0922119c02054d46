"""Benchmark models or the loading of images, and print a table."""

import argparse
import re
import sys
from typing import Any, Dict, List, Optional

import torch

import timm

from ..benchmark.cost import benchmark_cost
from ..benchmark.grid import benchmark_models
from ..benchmark.loading import BATCH_SIZE, MODEL, benchmark_loading
from ..benchmark.startup import benchmark_startup
from ..benchmark.tables import (
    COST,
    LOADING,
    MEMORY,
    MODELS,
    STARTUP,
    check_plot,
    describe_machine,
    draw_plot,
    markdown,
    write_csv,
    write_json,
)
from ..inference.device import check_device
from ..weights.source import MODULES
from .flags.benchmark import DTYPES, create_parser
from .flags.checks import check_outputs
from .selected import choose_dataset, open_selected

__all__ = ['main']

OWN_SIZES = ['gkgnet_224', 'gkgnet_448', 'gkgnet_576']


OF_PASSES = ('batch_size', 'amp_dtypes', 'compile', 'no_dense', 'plot', 'device')
NOT_FOR = dict(
    inference=('csv',),
    training=('csv',),
    loading=('models', 'compare', 'csv', *OF_PASSES),
    startup=('compare', 'csv', *OF_PASSES),
    cost=('repeat', *OF_PASSES),
)


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise a ValueError or OSError for flags that cannot work."""
    ours = timm.list_models(module=MODULES)
    for name in args.models or []:
        if name not in ours:
            advice = ', with another trunk: give it as --compare' if timm.is_model(name) else ''
            raise ValueError(f'Unknown model {name!r}{advice}, expected some of {", ".join(ours)}.')
    for name in args.compare:
        if not timm.is_model(name):
            raise ValueError(f'Unknown model {name!r} in --compare, timm.list_models() has all names.')
    cfgs = [timm.get_pretrained_cfg(name) for name in args.models or ours]
    stride = max(cfg.input_size[-1] // cfg.pool_size[-1] for cfg in cfgs)
    for size in args.img_sizes or []:
        if size < 1 or size % stride:
            raise ValueError(f'--img-sizes {size} is not a multiple of {stride}.')
    for flag, values in (('-b', args.batch_size or [1]), ('--repeat', [args.repeat])):
        if min(values) < 1:
            raise ValueError(f'{flag} must be at least 1, got {min(values)}.')
    for dtype in args.amp_dtypes:
        if dtype not in DTYPES:
            raise ValueError(f'--amp-dtypes {dtype!r} is not one of {", ".join(DTYPES)}.')
    if args.compile and args.compile not in torch.compiler.list_backends(exclude_tags=()):
        raise ValueError(f'--compile {args.compile!r} is not one of {", ".join(torch.compiler.list_backends())}.')
    if not re.fullmatch(r'cpu|cuda(:\d+)?', args.device):
        raise ValueError(f'--device {args.device!r} is not cpu, cuda or cuda:N.')
    check_device(args.device)
    for name in NOT_FOR[args.what]:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f'--{name.replace("_", "-")} is not for benchmark {args.what}.')
    check_outputs(args, ['json', 'csv', 'plot'])
    if args.plot:
        check_plot(args.plot)


def main(argv: Optional[List[str]] = None) -> List[Dict[str, Any]]:
    """Measure what the flags select, print a table, write files and return the rows.

    Raises:
        ValueError: If flags cannot work, or nothing could be measured.
        OSError: If a file cannot be written.
    """
    parser = create_parser()
    args = parser.parse_args(argv)
    _check(args, parser)
    machine = describe_machine(args.device)
    num_classes = args.num_classes or 80
    if args.what == 'loading':
        args.dataset = choose_dataset(args.dataset, args.data_dir, (args.split,)) or 'demo'
        dataset = open_selected(args, split=args.split, part='train', verbose=False)
        sizes = args.img_sizes or [448]
        rows = [row for size in sizes for row in benchmark_loading(dataset, size, args.workers, args.repeat)]
        conditions = f'{args.dataset}, batch {BATCH_SIZE}, beside a training step of {MODEL.model}'
        columns = LOADING
    elif args.what == 'startup':
        rows = [
            benchmark_startup(name, size, num_classes, args.repeat)
            for name in args.models or OWN_SIZES[:1]
            for size in args.img_sizes or [timm.get_pretrained_cfg_value(name, 'input_size')[-1]]
        ]
        conditions, columns = f'medians of {args.repeat}, {num_classes} classes', STARTUP
    elif args.what == 'cost':
        rows = benchmark_cost(args.models or (), args.compare, args.img_sizes, args.num_classes)
        conditions, columns = 'per image', COST
    else:
        is_training = args.what == 'training'
        rows, rates = benchmark_models(
            args.models or (OWN_SIZES[2:] if args.img_sizes else OWN_SIZES[:2] if is_training else OWN_SIZES),
            compare=args.compare,
            img_sizes=args.img_sizes,
            batch_sizes=args.batch_size or [4 if is_training else 1],
            dtypes=args.amp_dtypes,
            device=args.device,
            num_classes=num_classes,
            is_training=is_training,
            with_dense=not args.no_dense,
            backend=args.compile,
            repeat=args.repeat,
        )
        machine['giga_multiply_adds_per_s'] = {dtype: rate / 1e9 for dtype, rate in rates.items()}
        conditions = ', '.join(f'{rate / 1e9:.0f} G multiply-adds/s in {dtype}' for dtype, rate in rates.items())
        conditions += f', medians of {args.repeat}, {num_classes} classes'
        columns = MODELS
        if not any('peak_gb' in row for row in rows):
            columns = {name: title for name, title in MODELS.items() if name not in MEMORY}
    title = f'{args.what}: {machine.get("gpu", machine["cpu"])}, torch {machine["torch"]}, {machine["threads"]} threads'
    print(f'{title}, {conditions}\n')
    print(markdown(rows, columns))
    failed = [row for row in rows if 'error' in row]
    sys.stdout.flush()
    if args.what in ('inference', 'training') and 'peak_gb' not in columns and len(failed) < len(rows):
        print('Memory is left out: Python does not tell that of a process on this system.', file=sys.stderr)
    for row in failed:
        print(f'{row["model"]}, {row["mode"]}, {row["img_size"]} px: {row["error"]}', file=sys.stderr)
    if args.json:
        write_json(args.json, machine, rows)
    if args.csv:
        write_csv(args.csv, rows)
    if len(failed) == len(rows):
        raise ValueError('Nothing could be measured: the lines above say why.')
    if args.plot:
        draw_plot(args.plot, rows, title)
    return rows
