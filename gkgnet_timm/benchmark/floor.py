"""The arithmetic floor: the multiply-adds of a model over the rate at which the machine multiplies matrices."""

import contextlib
import functools
import time
from typing import Any, Callable, Optional, Sequence

import torch
import torch.nn as nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from .case import create_timm_model
from .dense_model import use_dense_graph

__all__ = ['matrix_product_rate', 'multiply_adds', 'run_on_shapes', 'seconds_of']

MAX_SECONDS = 0.5  # for one matrix product


def seconds_of(function: Callable[[], Any], device: str) -> float:
    """Time a call in seconds: between two events of the device on a GPU, by the clock elsewhere."""
    if torch.device(device).type != 'cuda':
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1e3


def _conv_backward(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
    **kwargs: Any,
) -> int:
    # torch counts every group of a grouped convolution as if it had all channels
    return sum(output_mask[:2]) * conv_flop_count(x, weight, grad, transposed=transposed)


def run_on_shapes(model: nn.Module, img_size: int, *counters: FlopCounterMode, is_training: bool = False) -> int:
    """Run a pass or training step of a model on tensors that have shapes only, and return the number of images.

    The model may be on the meta device, and computes nothing afterwards. The graph is the dense one, so that counters
    see the method, not its implementation.
    """
    # not no_grad: there the counter fails on parameters that require a gradient
    model = model.train(is_training).requires_grad_(is_training)
    batch_size = 2  # BatchNorm in training refuses a single value
    with FakeTensorMode(allow_non_fake_inputs=True), contextlib.ExitStack() as stack:
        use_dense_graph(model)
        state = (*model.named_parameters(), *model.named_buffers())
        shapes = {name: torch.empty_like(x, device='cpu').requires_grad_(x.requires_grad) for name, x in state}
        for counter in counters:
            stack.enter_context(counter)
        logits = torch.func.functional_call(model, shapes, torch.empty(batch_size, 3, img_size, img_size))
        if is_training:
            logits.sum().backward()
    return batch_size


@functools.lru_cache(maxsize=None)
def multiply_adds(name: str, img_size: int, num_classes: int, is_training: bool) -> Optional[float]:
    """Count the multiply-adds of convolutions and matrix products per image, None for a model that cannot be traced.

    The kNN product is counted on the dense graph. A training step is a forward and a backward pass.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _conv_backward})
    model = create_timm_model(name, img_size, num_classes)
    try:
        batch_size = run_on_shapes(model, img_size, counter, is_training=is_training)
    except Exception:  # whatever a timm model raises for tensors without values
        return None
    return counter.get_total_flops() / 2 / batch_size


def matrix_product_rate(device: str, dtype: str) -> float:
    """Measure the multiply-adds per second of large matrix products, the best of several, with this process's threads.

    On a GPU, float32 products use TF32 if convolutions do, which is torch's default.
    """
    sizes = (1024, 2048, 4096, 8192) if torch.device(device).type == 'cuda' else (512, 1024, 2048)
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    best = 0.0
    try:
        for size in sizes:
            a, b = torch.randn(2, size, size, device=device).to(getattr(torch, dtype)).unbind()
            out = torch.empty_like(a)
            for _ in range(4):
                seconds = seconds_of(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
                best = max(best, size**3 / seconds)
            if 8 * seconds > MAX_SECONDS:  # a type for which the machine has no instructions
                break
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    return best
