"""Measure cases: memory and construction in a fresh process for each, time in this process in turn."""

import gc
import multiprocessing
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch

from ..runtime import one_line
from .case import Case, create_model, create_step
from .floor import multiply_adds, seconds_of

try:
    import resource
except ImportError:  # on Windows
    resource = None

__all__ = ['measure']


def _rss_gb(is_peak: bool) -> Optional[float]:
    """Memory of this process now or at its peak, None where Python cannot tell."""
    status = Path('/proc/self/status')
    if status.is_file():  # Linux: getrusage there starts from the peak of the parent process
        pattern = r'VmHWM:\s+(\d+) kB' if is_peak else r'VmRSS:\s+(\d+) kB'
        return int(re.search(pattern, status.read_text(encoding='utf-8'))[1]) * 1024 / 1e9
    if resource is None:
        return None
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure_memory(case: Case, threads: int) -> Dict[str, float]:
    """Measure construction and peak memory in GB in this process, which must be a fresh one.

    Returns:
        base_gb: Memory before the model: torch and timm on the CPU, 0 on a GPU.
        construct_s, construct_gb: Time to make the model, and the additional memory at its peak.
        first_s: Time of the first pass or step, compilation included.
        peak_gb: Peak memory up to the end of a pass or step: of the process on the CPU, of the tensors in the second
            pass or step on a GPU.
        On Windows the figures of the CPU in GB are missing.
    """
    torch.set_num_threads(threads)
    on_gpu = torch.device(case.device).type == 'cuda'
    torch.zeros(1, device=case.device)  # starts up a GPU
    base = 0.0 if on_gpu else _rss_gb(is_peak=False)
    start = time.perf_counter()
    model = create_model(case)
    if on_gpu:
        torch.cuda.synchronize(case.device)
    figures = dict(base_gb=base, construct_s=time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(case.device) / 1e9 if on_gpu else _rss_gb(is_peak=True)
    figures['construct_gb'] = None if peak is None else max(peak - base, 0.0)
    step = create_step(case, model)
    start = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize(case.device)
    figures['first_s'] = time.perf_counter() - start
    if case.is_training or on_gpu:  # by then the optimizer has its state and kernels are chosen
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(case.device)
        step()
    figures['peak_gb'] = torch.cuda.max_memory_allocated(case.device) / 1e9 if on_gpu else _rss_gb(is_peak=True)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _in_fresh_process(function: Callable[..., Dict[str, float]], *args: Any) -> Dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def _median_seconds(rows: List[Dict[str, Any]], cases: List[Case], repeat: int) -> None:
    """Add `seconds` of every repetition, all cases in turn. A case that fails to warm up gets an `error` instead."""
    runs: List[Tuple[Dict[str, Any], Case, Callable[[], None]]] = []
    for row, case in zip(rows, cases):
        if 'error' in row:
            continue
        try:
            step = create_step(case, create_model(case))
            # the first pass compiles and allocates; on a GPU the clock has to rise, too
            for _ in range(5 if case.device != 'cpu' else 2 if case.mode == 'compiled' or case.is_training else 1):
                seconds_of(step, case.device)
        except Exception as error:  # such as out of memory beside the others
            row['error'] = one_line(error)
            continue
        row['seconds'] = []
        runs.append((row, case, step))
    for _ in range(repeat):
        for row, case, step in runs:
            row['seconds'].append(seconds_of(step, case.device))


def measure(cases: List[Case], repeat: int) -> List[Dict[str, Any]]:
    """Measure cases of one size, batch size and type, and return a row for each.

    The row of a case that cannot run has a one-line `error` instead of figures.

    Args:
        cases: Cases to measure; the dense graph of a model is the yardstick of its other cases, replayed of replayed.
        repeat: Timed passes of each.
    """
    rows: List[Dict[str, Any]] = []
    for case in cases:
        row = asdict(case)
        try:
            if not case.is_replayed:  # its memory is in a pool that nobody counts
                row |= _in_fresh_process(measure_memory, case, torch.get_num_threads())
        except BrokenProcessPool:
            row['error'] = 'its process was killed, perhaps for lack of memory'
        except Exception as error:  # whatever a timm model raises for a size it does not accept
            row['error'] = one_line(error)
        rows.append(row)
    _median_seconds(rows, cases, repeat)
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    dense = {
        (case.model, case.is_replayed): row
        for case, row in zip(cases, rows)
        if case.mode.startswith('dense') and 'error' not in row
    }
    for case, row in zip(cases, rows):
        if 'error' in row:
            continue
        median = statistics.median(row['seconds'])
        row |= dict(latency_ms=1e3 * median, images_per_s=row['batch_size'] / median)
        arguments = (row[key] for key in ('model', 'img_size', 'num_classes', 'is_training'))
        row['multiply_adds'] = multiply_adds(*arguments)
        if case.is_ours and (case.model, case.is_replayed) in dense:
            yardstick = dense[case.model, case.is_replayed]
            row['time_vs_dense'] = median / statistics.median(yardstick['seconds'])
            if 'peak_gb' in row:
                row['memory_vs_dense'] = row['peak_gb'] / yardstick['peak_gb']
    return rows
