"""The largest scores of every row: the selection of the neighbour search."""

import torch

__all__ = ['is_recorded', 'select', 'select_by_topk', 'select_largest']


@torch.compiler.assume_constant_result  # torch 2.11 takes is_exporting for true in all it compiles
def is_recorded() -> bool:
    """Whether a trace or an export is being made. It has to consist of PyTorch's own operators, on every device."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


@torch.jit.unused
def _distinct_keys(scores: torch.Tensor) -> torch.Tensor:
    """Integers in the order of float32 scores and, where those are equal, against that of indices: (..., M), int64."""
    bits = (scores + 0.0).view(torch.int32)  # there is no -0.0, which would sort below 0.0
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    M = scores.shape[-1]
    return (order.to(torch.int64) << 32) | torch.arange(M - 1, -1, -1, device=scores.device)


def select_by_topk(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`select` with operators of PyTorch, whose topk leaves the order of equal scores open."""
    if scores.dtype == torch.float64 or torch.jit.is_scripting() or torch.jit.is_tracing():
        # TorchScript has no view as another type; narrow stops where there are too few
        return scores.sort(dim=-1, descending=True, stable=True)[1].narrow(-1, 0, count)
    return _distinct_keys(scores.float()).topk(count, dim=-1)[1]


@torch.library.custom_op('gkgnet_timm::select_largest', mutates_args=())
def select_largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`select` as an operator, for which a device may have a kernel."""
    return select_by_topk(scores, count)


@select_largest.register_fake
def _(scores, count):
    return scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)


def select(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the largest scores of each row, largest first: (..., M) -> (..., count).

    Of equal scores the lower index comes first; a row with NaN gets any indices, even the same one twice. On a CPU topk
    would take a fifth of a model's time at 576 px, the kernel takes a twentieth. For the long lists of a ViG, up to 69,
    it takes 0.3 to 0.6 of the time of topk: a pass at 448 px is 7 to 9 % quicker, one at 224 px 1 to 3 % (Xeon with
    AVX-512, AMX).
    """
    if torch.jit.is_scripting():
        return select_by_topk(scores, count)
    return select_largest(scores, count)
