"""The command: flags, their checks, and the grid of cases."""

import argparse
import itertools
import sys
from typing import Any, Dict, List, Optional

import torch

import timm

from ..benchmark.case import Case
from ..benchmark.floor import matrix_product_rate
from ..benchmark.loading import BATCH_SIZE, benchmark_loading
from ..benchmark.measure import measure
from ..benchmark.tables import LOADING, MODELS, check_output, describe_machine, draw_plot, markdown, write_json
from ..layers.block import STRIDE
from .flags.groups import add_data_args

__all__ = ['main']

OWN_SIZES = ['gkgnet_224', 'gkgnet_448', 'gkgnet_576']

DTYPES = ('float32', 'bfloat16', 'float16')


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm benchmark',
        description='Latency, throughput, peak memory and construction of models, in inference or in training steps: '
        'beside the dense graph of the published code (x dense), the time that the multiply-adds alone would take at '
        'the rate of large matrix products (x floor), and other models of timm. Or the loading of training images '
        'against the default transform of timm. Models that are compared take turns in one process; memory and '
        'construction are measured in a fresh process each.',
    )
    parser.add_argument('what', nargs='?', choices=('inference', 'training', 'loading'), default='inference')
    parser.add_argument(
        '--models',
        nargs='+',
        metavar='NAME',
        help='(default: gkgnet_224 gkgnet_448 gkgnet_576, training: the first two, with --img-sizes: the last)',
    )
    parser.add_argument('--compare', nargs='+', default=[], metavar='NAME', help='other models of timm, at all sizes')
    parser.add_argument(
        '--img-sizes', nargs='+', type=int, metavar='N', help="sides of the images (default: the models' own)"
    )
    parser.add_argument('-b', '--batch-size', nargs='+', type=int, metavar='N', help='(default: 1, training: 4)')
    parser.add_argument(
        '--amp-dtypes', nargs='+', default=['float32'], metavar='TYPE', help=f'{", ".join(DTYPES)} (default: float32)'
    )
    parser.add_argument(
        '--compile', nargs='?', const='inductor', metavar='BACKEND', help='also measure compiled models (inductor)'
    )
    parser.add_argument(
        '--no-dense', action='store_true', help='without the dense graph, for sizes that it is too big for'
    )
    parser.add_argument('--device', default='cpu', metavar='NAME', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='timed passes of each (default: 5)')
    parser.add_argument('--json', metavar='FILE', help='also write the machine and all figures there')
    parser.add_argument('--plot', metavar='FILE', help='also draw time and memory against the size, as png, pdf or svg')
    add_data_args(parser)
    parser.add_argument('--split', metavar='NAME', help='loading: split of the data set')
    parser.set_defaults(dataset='demo', workers=2)
    return parser


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise ValueError(f'--device {name!r} is not cpu, cuda or cuda:N.')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'--device {name}: there are {torch.cuda.device_count()} CUDA devices here.')


def _check(args: argparse.Namespace) -> None:
    """Raise a ValueError or OSError for what can't work, and fill in defaults."""
    training = args.what == 'training'
    if args.models is None:
        args.models = OWN_SIZES[2:] if args.img_sizes else OWN_SIZES[:2] if training else OWN_SIZES
    args.batch_size = args.batch_size or [4 if training else 1]
    ours = timm.list_models(module=['gkgnet', 'pvig'])
    for name in args.models:
        if name not in ours:
            raise ValueError(f'Unknown model {name!r}, expected some of {", ".join(ours)}.')
    for name in args.compare:
        if not timm.is_model(name):
            raise ValueError(f'Unknown model {name!r} in --compare, timm.list_models() has all names.')
    for size in args.img_sizes or []:
        if size < 1 or size % STRIDE:
            raise ValueError(f'--img-sizes {size} is not a multiple of {STRIDE}.')
    for flag, values in (('-b', args.batch_size), ('--repeat', [args.repeat])):
        if min(values) < 1:
            raise ValueError(f'{flag} has to be at least 1, got {min(values)}.')
    for dtype in args.amp_dtypes:
        if dtype not in DTYPES:
            raise ValueError(f'--amp-dtypes {dtype!r} is not one of {", ".join(DTYPES)}.')
    if args.compile and args.compile not in torch.compiler.list_backends(exclude_tags=()):
        raise ValueError(f'--compile {args.compile!r} is not one of {", ".join(torch.compiler.list_backends())}.')
    _check_device(args.device)
    if args.plot and args.what == 'loading':
        raise ValueError('--plot is not for loading.')
    if args.json:
        check_output(args.json)
    if args.plot:
        check_output(args.plot, is_plot=True)


def _cases(args: argparse.Namespace, img_size: int, batch_size: int, dtype: str) -> List[Case]:
    """Contenders at one size, batch size and type."""
    is_training = args.what == 'training'
    common: Dict[str, Any] = dict(img_size=img_size, batch_size=batch_size, dtype=dtype, device=args.device)
    common |= dict(num_classes=args.num_classes or 80, is_training=is_training, backend=args.compile or 'inductor')
    modes = ['eager', 'compiled'] if args.compile else ['eager']
    own_modes = modes + ['checkpointing'] * is_training + ['dense'] * (not args.no_dense)
    models = args.models
    if not args.img_sizes:
        models = [name for name in models if timm.get_pretrained_cfg_value(name, 'input_size')[-1] == img_size]
    cases = [Case(model=name, mode=mode, **common) for name in models for mode in own_modes]
    return cases + [Case(model=name, mode=mode, is_ours=False, **common) for name in args.compare for mode in modes]


def _benchmark_models(args: argparse.Namespace, machine: Dict[str, Any]) -> List[Dict[str, Any]]:
    own_sizes = {timm.get_pretrained_cfg_value(name, 'input_size')[-1] for name in args.models}
    rows: List[Dict[str, Any]] = []
    rates = {dtype: matrix_product_rate(args.device, dtype) for dtype in args.amp_dtypes}
    for grid in itertools.product(args.img_sizes or sorted(own_sizes), args.batch_size, args.amp_dtypes):
        rows += measure(_cases(args, *grid), args.repeat)
    for dtype in rates:  # again, the first may have shared the machine with others
        rates[dtype] = max(rates[dtype], matrix_product_rate(args.device, dtype))
    machine['giga_multiply_adds_per_s'] = {dtype: rate / 1e9 for dtype, rate in rates.items()}
    for row in rows:
        if row.get('multiply_adds'):
            row['giga_multiply_adds'] = row['multiply_adds'] / 1e9
            floor = row['multiply_adds'] * row['batch_size'] / rates[row['dtype']]
            row |= dict(floor_ms=1e3 * floor, time_vs_floor=row['latency_ms'] / 1e3 / floor)
    return rows


def main(argv: Optional[List[str]] = None) -> List[Dict[str, Any]]:
    """Measure as the flags say, print a table and write files.

    Raises:
        ValueError: If flags can't work, or nothing could be measured.
        OSError: If a file can't be written.
    """
    args = _create_parser().parse_args(argv)
    _check(args)
    machine = describe_machine(args.device)
    if args.what == 'loading':
        rows = [row for size in args.img_sizes or [448] for row in benchmark_loading(args, size)]
        conditions, columns = f'{args.dataset}, batch {BATCH_SIZE}', LOADING
    else:
        rows, columns = _benchmark_models(args, machine), MODELS
        rates = machine['giga_multiply_adds_per_s'].items()
        conditions = ', '.join(f'{rate:.0f} G multiply-adds/s in {dtype}' for dtype, rate in rates)
        conditions += f', medians of {args.repeat}, {args.num_classes or 80} classes'
    title = f'{args.what}: {machine.get("gpu", machine["cpu"])}, torch {machine["torch"]}, {machine["threads"]} threads'
    print(f'{title}, {conditions}\n')
    print(markdown(rows, columns))
    failed = [row for row in rows if 'error' in row]
    sys.stdout.flush()
    for row in failed:
        print(f'{row["model"]}, {row["mode"]}, {row["img_size"]} px: {row["error"]}', file=sys.stderr)
    if args.json:
        write_json(args.json, machine, rows)
    if len(failed) == len(rows):
        raise ValueError('Nothing could be measured.')
    if args.plot:
        draw_plot(args.plot, rows, title)
    return rows
