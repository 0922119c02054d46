"""Time and memory of the models, side by side with the dense graph of the published code."""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

import timm

from .dense import use_dense_graph

COLUMNS = {
    'model': 'model',
    'img_size': 'px',
    'construct_s': 'construct, s',
    'peak_rss_gb': 'peak RSS, GB',
    'forward_s': 'forward, s',
    'dense_construct_s': 'dense construct, s',
    'dense_peak_rss_gb': 'dense peak RSS, GB',
    'dense_forward_s': 'dense forward, s',
    'forward_vs_dense': 'forward / dense',
}


def _create(name: str, dense: bool) -> torch.nn.Module:
    model = timm.create_model(name).eval()
    return use_dense_graph(model) if dense else model


def _images(model: torch.nn.Module, batch_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, *timm.models.get_model_input_config(model)['input_size'], generator=generator)


@torch.inference_mode()
def measure_start(name: str, dense: bool, batch_size: int) -> Tuple[float, float]:
    """Seconds to construct a model, and peak memory of this process in GB after one forward pass, torch included."""
    start = time.perf_counter()
    model = _create(name, dense)
    seconds = time.perf_counter() - start
    model(_images(model, batch_size))
    unit = 1 if sys.platform == 'darwin' else 1024
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@torch.inference_mode()
def measure_forward(name: str, batch_size: int, repeat: int) -> Tuple[float, float]:
    """Median seconds of a forward pass of a model and of its dense version, taken in turn."""
    models = [_create(name, dense) for dense in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    images = _images(models[0], batch_size)
    seconds: List[List[float]] = [[], []]
    for round_ in range(repeat + 1):  # the first warms up
        for model, times in zip(models, seconds):
            start = time.perf_counter()
            model(images)
            if round_ > 0:
                times.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def benchmark(name: str, batch_size: int, repeat: int) -> Dict[str, Any]:
    """All figures of one model. Construction and memory are measured in fresh processes."""
    row: Dict[str, Any] = dict(model=name, img_size=timm.get_pretrained_cfg_value(name, 'input_size')[-1])
    for prefix, dense in (('', False), ('dense_', True)):
        with multiprocessing.get_context('spawn').Pool(1) as pool:
            seconds, memory = pool.apply(measure_start, (name, dense, batch_size))
        row |= {f'{prefix}construct_s': seconds, f'{prefix}peak_rss_gb': memory}
    row['forward_s'], row['dense_forward_s'] = measure_forward(name, batch_size, repeat)
    row['forward_vs_dense'] = row['forward_s'] / row['dense_forward_s']
    return row


def markdown(rows: List[Dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ['| ' + ' | '.join(COLUMNS.values()) + ' |', '|' + '---|' * len(COLUMNS)]
    for row in rows:
        cells = (f'{row[key]:.2f}' if isinstance(row[key], float) else str(row[key]) for key in COLUMNS)
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(argv: Optional[List[str]] = None) -> List[Dict[str, Any]]:
    """Measure as the flags say and print a table."""
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm benchmark',
        description='Inference in float32 on the CPU, against the dense graph of the published code in the same run.',
    )
    parser.add_argument('--models', nargs='+', default=['gkgnet_224', 'gkgnet_448', 'gkgnet_576'], metavar='NAME')
    parser.add_argument('-b', '--batch-size', type=int, default=1, metavar='N')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='timed passes of each, in turn (default: 5)')
    parser.add_argument('--json', metavar='FILE', help='also write the figures there')
    args = parser.parse_args(argv)
    ours = timm.list_models(module=['gkgnet', 'pvig'])
    for name in args.models:
        if name not in ours:
            raise ValueError(f'Unknown model {name!r}, expected some of {", ".join(ours)}.')
    rows = [benchmark(name, args.batch_size, args.repeat) for name in args.models]
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, batch {args.batch_size}, float32')
    print(markdown(rows))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=4) + '\n')
    return rows
