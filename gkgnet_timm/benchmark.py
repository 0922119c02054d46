"""Time and memory of the models, against the dense graph of the published code, and of training."""

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .data import create_dataset, create_train_loader, create_train_transform, start_epoch
from .dense import use_dense_graph
from .loss import GKGNetLoss
from .training.arguments import DEFAULT_SPLITS, add_data_args, data_kwargs

INFERENCE = {
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
TRAINING = {
    'model': 'model',
    'img_size': 'px',
    'images_per_s': 'img/s',
    'peak_gb': 'peak memory, GB',
    'checkpointing_images_per_s': 'with checkpointing, img/s',
    'checkpointing_peak_gb': 'peak memory, GB',
}
LOADING = {
    'pipeline': 'pipeline',
    'img_size': 'px',
    'workers': 'workers',
    'images_per_s': 'img/s',
    'time_vs_timm': 'time / timm',
}


def _create(name: str, dense: bool) -> torch.nn.Module:
    model = timm.create_model(name).eval()
    return use_dense_graph(model) if dense else model


def _images(model: torch.nn.Module, batch_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, *timm.models.get_model_input_config(model)['input_size'], generator=generator)


def _peak_rss_gb() -> float:
    status = Path('/proc/self/status')
    if status.is_file():  # Linux, where getrusage starts from the peak of the parent process
        return int(re.search(r'VmHWM:\s+(\d+) kB', status.read_text())[1]) * 1024 / 1e9
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@torch.inference_mode()
def measure_start(name: str, dense: bool, batch_size: int) -> Tuple[float, float]:
    """Seconds to construct a model, and peak memory of this process in GB after one forward pass, torch included."""
    start = time.perf_counter()
    model = _create(name, dense)
    seconds = time.perf_counter() - start
    model(_images(model, batch_size))
    return seconds, _peak_rss_gb()


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


def measure_training(name: str, batch_size: int, repeat: int, device: str, checkpointing: bool) -> Tuple[float, float]:
    """Images a second of training steps with AdamW, and peak memory in GB: of the device, or of this process."""
    model = timm.create_model(name).to(device).train()
    model.set_grad_checkpointing(checkpointing)
    criterion, optimizer = GKGNetLoss(), torch.optim.AdamW(model.parameters())
    images = _images(model, batch_size).to(device)
    target = torch.arange(model.num_classes, device=device).expand(batch_size, -1) % 20 == 0  # 4 of 80
    seconds = []
    for _ in range(repeat + 1):  # the first warms up
        start = time.perf_counter()
        optimizer.zero_grad()
        criterion(model(images), target.float()).backward()
        optimizer.step()
        if device != 'cpu':
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak = _peak_rss_gb() if device == 'cpu' else torch.cuda.max_memory_allocated(device) / 1e9
    return batch_size / statistics.median(seconds[1:]), peak


def benchmark_training(name: str, batch_size: int, repeat: int, device: str) -> Dict[str, Any]:
    """Figures of training, with and without gradient checkpointing, each in a fresh process."""
    row: Dict[str, Any] = dict(model=name, img_size=timm.get_pretrained_cfg_value(name, 'input_size')[-1])
    for prefix, checkpointing in (('', False), ('checkpointing_', True)):
        with multiprocessing.get_context('spawn').Pool(1) as pool:
            rate, peak = pool.apply(measure_training, (name, batch_size, repeat, device, checkpointing))
        row |= {f'{prefix}images_per_s': rate, f'{prefix}peak_gb': peak}
    return row


def benchmark_loading(args: argparse.Namespace) -> List[Dict[str, Any]]:
    """Images a second of the published training pipeline and of timm's default one, over the same files in turn."""
    size = (args.img_size, args.img_size)
    dataset = create_dataset(split=args.split or DEFAULT_SPLITS[args.dataset][0], **data_kwargs(args))
    config = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, input_size=(3, *size))
    published = dict(cropmix=0.5, reprob=0.5, auto_augment='trivial')
    transforms = {'timm': create_train_transform(size), 'published': create_train_transform(size, **published)}
    seconds: Dict[str, List[float]] = {name: [] for name in transforms}
    for round_ in range(args.repeat + 1):  # the first warms up
        for name, transform in transforms.items():
            loader = create_train_loader(dataset, config, transform, 16, torch.device('cpu'), args.workers)
            start_epoch(loader, seed=0, epoch=round_, rank=0)
            start = time.perf_counter()
            images = sum(len(target) for _, target in loader)
            seconds[name].append((time.perf_counter() - start) / images)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [
        dict(
            pipeline=name,
            img_size=args.img_size,
            workers=args.workers,
            images_per_s=1 / median,
            time_vs_timm=median / medians['timm'],
        )
        for name, median in medians.items()
    ]


def benchmark_inference(name: str, batch_size: int, repeat: int) -> Dict[str, Any]:
    """All figures of one model. Construction and memory are measured in fresh processes."""
    row: Dict[str, Any] = dict(model=name, img_size=timm.get_pretrained_cfg_value(name, 'input_size')[-1])
    for prefix, dense in (('', False), ('dense_', True)):
        with multiprocessing.get_context('spawn').Pool(1) as pool:
            seconds, memory = pool.apply(measure_start, (name, dense, batch_size))
        row |= {f'{prefix}construct_s': seconds, f'{prefix}peak_rss_gb': memory}
    row['forward_s'], row['dense_forward_s'] = measure_forward(name, batch_size, repeat)
    row['forward_vs_dense'] = row['forward_s'] / row['dense_forward_s']
    return row


def markdown(rows: List[Dict[str, Any]], columns: Dict[str, str]) -> str:
    """The rows as a Markdown table."""
    lines = ['| ' + ' | '.join(columns.values()) + ' |', '|' + '---|' * len(columns)]
    for row in rows:
        cells = (f'{row[key]:.2f}' if isinstance(row[key], float) else str(row[key]) for key in columns)
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(argv: Optional[List[str]] = None) -> List[Dict[str, Any]]:
    """Measure as the flags say and print a table."""
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm benchmark',
        description='Inference on the CPU against the dense graph of the published code, training with and without '
        'gradient checkpointing, or the loading of training images against the default transform of timm.',
    )
    parser.add_argument('what', nargs='?', choices=('inference', 'training', 'loading'), default='inference')
    parser.add_argument('--models', nargs='+', metavar='NAME', help='(default: gkgnet_224 gkgnet_448 gkgnet_576)')
    parser.add_argument('-b', '--batch-size', type=int, metavar='N', help='(default: 1, training: 4)')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='timed passes of each (default: 5)')
    parser.add_argument('--device', default='cpu', metavar='NAME', help='of training (default: cpu)')
    parser.add_argument('--json', metavar='FILE', help='also write the figures there')
    add_data_args(parser)
    parser.add_argument('--split', metavar='NAME', help='loading: split of the data set')
    parser.add_argument('--img-size', type=int, default=448, metavar='N', help='loading: side (default: 448)')
    parser.set_defaults(dataset='demo', workers=2)
    args = parser.parse_args(argv)
    models = args.models or ['gkgnet_224', 'gkgnet_448', 'gkgnet_576'][: 2 if args.what == 'training' else 3]
    ours = timm.list_models(module=['gkgnet', 'pvig'])
    for name in models:
        if name not in ours:
            raise ValueError(f'Unknown model {name!r}, expected some of {", ".join(ours)}.')
    if args.what == 'loading':
        rows, columns = benchmark_loading(args), LOADING
        conditions = f'{args.dataset}, batch 16'
    elif args.what == 'training':
        batch_size = args.batch_size or 4
        rows, columns = [benchmark_training(name, batch_size, args.repeat, args.device) for name in models], TRAINING
        conditions = f'{args.device}, batch {batch_size}, float32'
    else:
        batch_size = args.batch_size or 1
        rows, columns = [benchmark_inference(name, batch_size, args.repeat) for name in models], INFERENCE
        conditions = f'batch {batch_size}, float32'
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, {conditions}')
    print(markdown(rows, columns))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=4) + '\n')
    return rows
