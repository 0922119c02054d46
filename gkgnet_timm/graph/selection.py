"""The largest scores of every row: the selection of the neighbour search."""

import torch

__all__ = ['is_recorded', 'select', 'select_by_topk', 'select_largest']

_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)  # the former since torch 2.7


@torch.compiler.assume_constant_result  # torch 2.11 takes is_exporting for true in all it compiles
def is_recorded() -> bool:
    """Whether a trace or an export is being made. It has to consist of PyTorch's own operators, on every device."""
    return torch.jit.is_tracing() or _is_exporting()


def select_by_topk(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`select` in PyTorch.

    Where torch would partition the row, the `count` blocks with the largest maxima hold all of them, and are searched
    instead. Blocks are strided, so that the maxima are taken over whole rows of memory.
    """
    M = scores.shape[-1]
    size = 9 if M % 9 == 0 else 8 if M % 8 == 0 else 1
    if count * 64 <= M or count >= M // size or size == 1:
        return scores.topk(count, dim=-1)[1]
    step = M // size  # block b is b, b + step, b + 2 * step, ...
    maxima = scores.unflatten(-1, [size, step]).amax(-2)  # (..., M) -> (..., size, step) -> (..., step)
    blocks = maxima.topk(count, dim=-1, sorted=False)[1].unsqueeze(-2)  # (..., 1, count)
    offsets = torch.arange(0, M, step, device=scores.device).unsqueeze(-1)  # (size, 1)
    columns = (blocks + offsets).flatten(-2)  # (..., size, count) -> (..., size * count)
    return columns.gather(-1, scores.gather(-1, columns).topk(count, dim=-1)[1])


@torch.library.custom_op('gkgnet_timm::select_largest', mutates_args=())
def select_largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`select` as an operator, for which a device may have a kernel."""
    return select_by_topk(scores, count)


@select_largest.register_fake
def _(scores, count):
    return scores.new_empty([*scores.shape[:-1], count], dtype=torch.int64)


def select(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the largest scores of each row, largest first: (..., M) -> (..., count).

    Equal scores come in any order; a row with NaN gets any indices, even the same one twice. On a CPU topk would take a
    fifth of a model's time at 576 px, the kernel takes a twentieth. For the long lists of a ViG, up to 69, it takes 0.3
    to 0.6 of the time of topk: a pass at 448 px is 7 to 9 % quicker, one at 224 px 1 to 3 % (Xeon with AVX-512, AMX).
    """
    if torch.jit.is_scripting():
        return select_by_topk(scores, count)
    return select_largest(scores, count)
