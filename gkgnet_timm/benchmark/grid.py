"""Benchmark models over a grid of image sizes, batch sizes and types."""

import itertools
from typing import Any, Dict, List, Optional, Sequence, Tuple

import timm

from .case import Case
from .floor import matrix_product_rate
from .measure import measure

__all__ = ['benchmark_models']


def benchmark_models(
    models: Sequence[str],
    *,
    compare: Sequence[str] = (),
    img_sizes: Optional[Sequence[int]] = None,
    batch_sizes: Sequence[int] = (1,),
    dtypes: Sequence[str] = ('float32',),
    device: str = 'cpu',
    num_classes: int = 80,
    is_training: bool = False,
    with_dense: bool = True,
    backend: Optional[str] = None,
    with_replayed: bool = False,
    repeat: int = 5,
) -> Tuple[List[Dict[str, Any]], Dict[str, float]]:
    """Measure models of this package and others beside them. Arguments that are not listed here are those of `Case`.

    Args:
        models: Models of this package.
        compare: Other timm models, measured at all sizes.
        img_sizes: Sides of the images (default: each of `models` at its own).
        is_training: Measure training steps, also with gradient checkpointing, instead of inference.
        with_dense: Also measure `models` with the dense graph of the published code.
        backend: Also measure models compiled with this backend of torch.compile.
        with_replayed: Also measure models, and the dense graph if that is measured, as CUDA graphs.
        repeat: Timed passes of each case.

    Returns:
        A row of figures for each case, see `measure`, and the multiply-adds per second of matrix products by type.
    """
    modes = ['eager'] + ['compiled'] * bool(backend) + ['eager replayed'] * with_replayed
    own_modes = modes + ['checkpointing'] * is_training + ['dense'] * with_dense
    own_modes += ['dense replayed'] * (with_dense and with_replayed)
    contenders = [(name, mode, True) for name in models for mode in own_modes]
    contenders += [(name, mode, False) for name in compare for mode in modes]
    own_sizes = {name: timm.get_pretrained_cfg_value(name, 'input_size')[-1] for name in models}

    rates = {dtype: matrix_product_rate(device, dtype) for dtype in dtypes}
    rows: List[Dict[str, Any]] = []
    sizes = img_sizes or sorted(set(own_sizes.values()))
    for img_size, batch_size, dtype in itertools.product(sizes, batch_sizes, dtypes):
        common = (img_size, batch_size, dtype, device, num_classes)
        cases = [
            Case(name, *common, mode, is_ours=is_ours, is_training=is_training, backend=backend or 'inductor')
            for name, mode, is_ours in contenders
            if img_sizes or not is_ours or own_sizes[name] == img_size
        ]
        rows += measure(cases, repeat)
    for dtype in rates:  # again: the first may have shared the machine with others
        rates[dtype] = max(rates[dtype], matrix_product_rate(device, dtype))
    for row in rows:
        if row.get('multiply_adds'):
            row['giga_multiply_adds'] = row['multiply_adds'] / 1e9
            floor = row['multiply_adds'] * row['batch_size'] / rates[row['dtype']]
            row |= dict(floor_ms=1e3 * floor, time_vs_floor=row['latency_ms'] / 1e3 / floor)
    return rows, rates
