"""BatchNorm and GELU of nodes in training on a CPU, by kernels in C.

PyTorch writes the normalised map, reads it for GELU, and keeps it for the backward pass. Here it is never written: each
direction reads its input twice, and the memory of a training step falls by a fifth. Means and variances are summed more
accurately than there, and have the same bits with any number of threads.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from torch.utils._python_dispatch import _get_current_dispatch_mode

from timm.layers import BatchNormAct2d

from ..graph.cpu import find_kernels

__all__ = ['norm_act', 'takes_kernels']

PIECE = 1 << 15  # numbers that are summed in a row: they stay in the cache
LEAST_ROWS = 8
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks', 'forward')  # or a patch


def _bind(kernels: ctypes.CDLL) -> None:
    """Declare the functions of norm_kernels.c."""
    pointer, number, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    kernels.measure_nodes.argtypes = [pointer, *[number] * 3, *[pointer] * 3, *[integer] * 2]
    kernels.normalise_nodes.argtypes = [pointer, *[number] * 2, *[pointer] * 4, *[integer] * 3]
    kernels.spread_gradient.argtypes = [*[pointer] * 2, *[number] * 3, *[pointer] * 8, *[integer] * 3]
    for function in (kernels.measure_nodes, kernels.normalise_nodes, kernels.spread_gradient):
        function.restype = None


@functools.lru_cache(maxsize=None)
def _load_kernels() -> Optional[ctypes.CDLL]:
    return find_kernels(Path(__file__).with_name('norm_kernels.c'), _bind)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Nodes as rows in memory: (B, C, H, W) -> (B * H * W, C)."""
    x = x.permute(0, 2, 3, 1).contiguous()  # (B, C, H, W) -> (B, H, W, C); reshape alone leaves gaps and repetitions
    return x.view(-1, x.shape[3])  # (B, H, W, C) -> (B * H * W, C)


def _map(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    B, C, H, W = like.shape
    return rows.view(B, H, W, C).permute(0, 3, 1, 2)  # (B * H * W, C) -> (B, H, W, C) -> (B, C, H, W)


def _pointers(*tensors: torch.Tensor) -> Tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


class _NormAct(torch.autograd.Function):
    """Also returns mean and biased variance (C,), without gradient, for the running ones."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, has_gelu: bool
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kernels, rows = _load_kernels(), _rows(x)
        N, C = rows.shape
        height = max(LEAST_ROWS, PIECE // C)
        sums = weight.new_empty(-(-N // height), 2, C)
        mean, variance = weight.new_empty(2, C).unbind()
        how = x.dtype == torch.bfloat16, torch.get_num_threads()
        kernels.measure_nodes(*_pointers(rows), N, C, height, *_pointers(sums, mean, variance), *how)
        scale = weight * (variance + eps).rsqrt()
        out = torch.empty_like(rows)
        kernels.normalise_nodes(*_pointers(rows), N, C, *_pointers(mean, scale, bias, out), has_gelu, *how)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.has_gelu = eps, has_gelu
        ctx.mark_non_differentiable(mean, variance)
        return _map(out, x), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> Tuple[Optional[torch.Tensor], ...]:
        x, weight, bias, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            out = F.batch_norm(x, None, None, weight, bias, True, eps=ctx.eps)
            out = F.gelu(out) if ctx.has_gelu else out
            inputs = (x, weight, bias)
            found = iter(torch.autograd.grad(out, [t for t in inputs if t.requires_grad], grad, create_graph=True))
            return (*(next(found) if t.requires_grad else None for t in inputs), None, None)
        rows, grad = _rows(x), _rows(grad)
        N, C = rows.shape
        height = max(LEAST_ROWS, PIECE // C)
        sums = weight.new_empty(-(-N // height) + 1, 2, C)
        plain, product = weight.new_empty(2, C).unbind()
        inverse = (variance + ctx.eps).reciprocal()
        length = inverse.sqrt()
        scale = weight * length
        out = torch.empty_like(rows)
        _load_kernels().spread_gradient(
            *(*_pointers(grad, rows), N, C, height, *_pointers(mean, scale, bias, inverse, sums)),
            *(*_pointers(plain, product, out), ctx.has_gelu, x.dtype == torch.bfloat16, torch.get_num_threads()),
        )
        return _map(out, x), product * length, plain, None, None


def _is_watched(norm: nn.Module) -> bool:
    """Whether someone is to see each call of the norm or of its parts."""
    of_all = (_global_backward_hooks, _global_backward_pre_hooks, _global_forward_hooks, _global_forward_pre_hooks)
    return any(of_all) or any(getattr(part, hooks) for part in norm.modules() for hooks in HOOKS if hooks in vars(part))


def takes_kernels(norm: nn.Module, x: torch.Tensor) -> bool:
    """Whether `norm_act` is for this module, in its state, and this map (B, C, H, W)."""
    return (
        type(x) is torch.Tensor  # none that traces or wraps one
        and x.device.type == 'cpu'
        and type(norm) is BatchNormAct2d
        and norm.training
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None  # none that records operators
        and x.dtype in (torch.float32, torch.bfloat16)
        and norm.num_batches_tracked is not None
        and all(
            t is not None and (t.dtype, t.device) == (torch.float32, x.device) and t.is_contiguous()
            for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        and x.numel() // x.shape[1] > 1
        and x.permute(0, 2, 3, 1).is_contiguous()
        and type(norm.drop) is nn.Identity
        and (type(norm.act) is nn.Identity or (isinstance(norm.act, nn.GELU) and norm.act.approximate == 'none'))
        and not _is_watched(norm)
        and _load_kernels() is not None
    )


def norm_act(norm: BatchNormAct2d, x: torch.Tensor) -> torch.Tensor:
    """Normalise nodes (B, C, H, W) by their own statistics and activate them, and update the running statistics."""
    out, mean, variance = _NormAct.apply(x, norm.weight, norm.bias, norm.eps, isinstance(norm.act, nn.GELU))
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        count = x.numel() // x.shape[1]
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), momentum)
    return out
