"""Show the figures of a benchmark as a table, a JSON file or a plot, and describe the machine."""

import csv
import json
import platform
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch

import timm

from ..evaluation.figures import COLOURS, create_figure, save_figure
from ..runtime import replacing

__all__ = [
    'COST',
    'LOADING',
    'MEMORY',
    'MODELS',
    'STARTUP',
    'check_plot',
    'describe_machine',
    'draw_plot',
    'markdown',
    'write_csv',
    'write_json',
]

MODELS = {
    'model': 'model',
    'img_size': 'px',
    'batch_size': 'batch',
    'dtype': 'type',
    'mode': 'mode',
    'latency_ms': 'latency, ms',
    'images_per_s': 'img/s',
    'peak_gb': 'peak memory, GB',
    'construct_s': 'construction, s',
    'construct_gb': 'its memory, GB',
    'time_vs_dense': 'x dense',
    'memory_vs_dense': 'memory x dense',
    'giga_multiply_adds': 'G multiply-adds',
    'time_vs_floor': 'x floor',
}
MEMORY = ('peak_gb', 'construct_gb', 'memory_vs_dense')  # of the columns above
LOADING = {
    'pipeline': 'pipeline',
    'img_size': 'px',
    'workers': 'workers',
    'images_per_s': 'img/s',
    'model_images_per_s': 'model, img/s',
    'time_vs_timm': 'time / timm',
}
COST = {
    'model': 'model',
    'img_size': 'px',
    'num_classes': 'classes',
    'parameters': 'parameters',
    'multiply_adds': 'multiply-adds',
    'activations': 'activations',
}
STARTUP = {
    'model': 'model',
    'img_size': 'px',
    'predict_s': 'predict, CPU s',
    'floor_s': 'import, construction and a pass, CPU s',
    'time_vs_floor': 'ratio',
}


def check_plot(path: str) -> None:
    """Raise a ValueError for a file that is not of a type plots can have: now, not after hours of measuring."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import

    kinds = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in kinds:
        raise ValueError(f'Plot {path!r}: expected a name that ends in one of {", ".join(sorted(kinds))}.')


def describe_machine(device: str) -> Dict[str, Any]:
    """Return versions, the number of threads and the names of the processors."""
    info = Path('/proc/cpuinfo')
    name = re.search(r'model name\s*:\s*(.+)', info.read_text(encoding='utf-8')) if info.is_file() else None
    known = getattr(torch.cpu, 'get_capabilities', dict)()  # not in older versions
    machine = dict(
        torch=torch.__version__,
        timm=timm.__version__,
        threads=torch.get_num_threads(),
        cpu=name[1].strip() if name else known.get('cpu_name') or platform.processor() or platform.machine(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )
    if torch.device(device).type == 'cuda':
        machine |= dict(gpu=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
    return machine


def markdown(rows: List[Dict[str, Any]], columns: Dict[str, str]) -> str:
    """Format rows as a Markdown table, with - for figures that a row lacks."""
    lines = ['| ' + ' | '.join(columns.values()) + ' |', '|' + '---|' * len(columns)]
    for row in rows:
        values = (row.get(key) for key in columns)
        cells = (
            '-' if value is None else f'{value:.2f}' if isinstance(value, float) else str(value) for value in values
        )
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def write_json(path: str, machine: Dict[str, Any], rows: List[Dict[str, Any]]) -> None:
    """Write the machine and all figures of all rows to a file."""
    with replacing(path) as file:
        file.write(json.dumps(dict(machine=machine, rows=rows), indent=4) + '\n')


def write_csv(path: str, rows: List[Dict[str, Any]]) -> None:
    """Write rows that have the same figures to a table."""
    with replacing(path, newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def _lines(rows: List[Dict[str, Any]]) -> Dict[str, List[Dict[str, Any]]]:
    """Group rows that differ only in size, by the rest: gkgnet_224 and gkgnet_448 are one line."""
    keys = ('batch_size', 'dtype', 'mode')
    varying = [key for key in keys if len({row[key] for row in rows}) > 1]
    families = defaultdict(set)
    for row in rows:
        families[re.sub(r'_\d+$', '', row['model']), row['img_size']].add(row['model'])
    are_disjoint = all(len(names) == 1 for names in families.values())
    lines = defaultdict(list)
    for row in sorted(rows, key=lambda row: row['img_size']):
        name = re.sub(r'_\d+$', '', row['model']) if row['is_ours'] and are_disjoint else row['model']
        parts = [f'batch {row[key]}' if key == 'batch_size' else row[key] for key in varying]
        lines[', '.join([name, *parts])].append(row)
    return lines


def draw_plot(path: str, rows: List[Dict[str, Any]], title: str) -> None:
    """Draw latency and, where it was measured, peak memory against image size, a line for each model and mode."""
    rows = [row for row in rows if 'error' not in row]
    figure = create_figure(figsize=(13, 5), layout='constrained')
    panels: Tuple[Tuple[str, str], ...] = (('latency_ms', 'latency, ms'), ('peak_gb', 'peak memory, GB'))
    panels = panels[: 2 if all('peak_gb' in row for row in rows) else 1]
    sizes = sorted({row['img_size'] for row in rows})
    for axes, (key, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for number, (name, line) in enumerate(_lines(rows).items()):
            style = '--' if line[0]['mode'] == 'dense' else '-' if line[0]['is_ours'] else ':'
            look = dict(color=COLOURS[number % len(COLOURS)], marker='os^D'[number // len(COLOURS) % 4], ls=style)
            axes.plot([row['img_size'] for row in line], [row[key] for row in line], label=name, **look)
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter('{x:g}')
        axes.tick_params(axis='y', which='minor', left=True, labelsize='small')
        axes.grid(alpha=0.3)
        axes.set_xlabel('side of the image, px')
        axes.set_ylabel(label)
    axes.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1.01, 1))
    figure.suptitle(title)
    save_figure(figure, path, dpi=100)
