"""The metrics over batches and ranks."""

from collections import OrderedDict
from typing import Dict, List, Optional, Tuple, Union

import numpy as np
import torch
import torch.distributed as dist

from timm.task import MultiLabelClassificationEvaluator

from .figures import Threshold, check_scores, check_threshold, mean_bce, ranking_figures, threshold_figures
from .ranks import gather_rows, on_first_rank

__all__ = ['MultiLabelEvaluator']

BLOCK = 1 << 26  # bytes; what is larger than 32 MB goes back to the system as soon as it is freed


class _Rows:
    """Rows that come in batches."""

    def __init__(self) -> None:
        self.blocks: List[torch.Tensor] = []
        self.batches: List[torch.Tensor] = []
        self.waiting: int = 0  # bytes of the batches

    def append(self, rows: torch.Tensor) -> None:
        self.batches.append(rows)
        self.waiting += rows.nbytes
        if self.waiting >= BLOCK:
            self.blocks.append(torch.cat(self.batches))
            self.batches, self.waiting = [], 0

    def join(self) -> Optional[torch.Tensor]:
        """All rows in one piece, None without any. Each block is freed when it is copied."""
        parts = self.blocks + self.batches
        if len(parts) > 1:
            whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
            self.blocks, self.batches, self.waiting = [whole], [], 0
            end = len(whole)
            while parts:
                part = parts.pop()
                whole[end - len(part) : end] = part
                end -= len(part)
            return whole
        return parts[0] if parts else None


class MultiLabelEvaluator(MultiLabelClassificationEvaluator):
    """Compute `multilabel_metrics` over batches and ranks, and the binary cross-entropy over known targets.

    Logits are ranked, because their probabilities tie more often; float32 probabilities are compared with the
    threshold. All figures, the loss included, come from all rows in the order of the data set, so they have the same
    bits for any batch size and number of ranks.

    Each rank keeps its rows on the CPU, 5 bytes per class. `compute` brings them together in the memory of the first
    rank alone, which then has `gathered`, the rows of all images that were not dropped: logits (N, L), targets (N, L)
    and positions in the data set (N,). All ranks have their number, `images`. Of W ranks, the first takes
    5 N L (1 + 1 / W) bytes, the others 5 N L / W, each at most 0.5 GB beside them; their devices take 100 MB at most.

    Args:
        device: Device of the collectives in `compute`.
        max_samples: Rows of this rank without the sampler's padding, see timm's `evaluation_sample_limit`.
        threshold: As in `multilabel_metrics`.

    Attributes:
        default_metric: Name of the figure that timm takes to compare checkpoints.
        metric_names: Figures of `compute`, in this order.
        gathered: See above, None before `compute` and on other ranks.
        images: See above, None before `compute`.
    """

    default_metric = 'mAP'
    metric_names: Tuple[str, ...] = ('loss', 'mAP', 'mAP_present', 'CF1', 'OF1', 'CP', 'CR', 'OP', 'OR') + tuple(
        f'{name}_top3' for name in ('CP', 'CR', 'OP', 'CF1', 'OR', 'OF1')
    )

    def __init__(
        self,
        device: Union[None, str, torch.device] = None,
        *,
        max_samples: Optional[int] = None,
        threshold: Threshold = 0.5,
    ) -> None:
        super().__init__(device, max_samples=max_samples)
        self.threshold: np.ndarray = check_threshold(threshold, torch.as_tensor(threshold).numel())

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self.outputs: _Rows = _Rows()
        self.targets: _Rows = _Rows()
        self.positions: _Rows = _Rows()
        self.gathered: Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]] = None
        self.images: Optional[int] = None

    @torch.no_grad()
    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, L).
            target: (B, L) as in `multilabel_metrics`. A row of nan marks an unreadable image: it is dropped from all
                figures but keeps its position in the data set.
        """
        if logits.ndim != 2 or target.shape != logits.shape:
            shapes = f'{tuple(logits.shape)} and {tuple(target.shape)}'
            raise ValueError(f'logits and target must both be (images, classes), got {shapes}.')
        check_threshold(self.threshold, logits.shape[1])  # now, not after the whole data set
        start = self.num_samples
        logits, target = self._prepare(logits, target)  # cuts padding; dropped rows count
        logits, target = logits.cpu(), target.float().cpu()
        dropped = target.isnan().all(dim=1)
        invalid = (target != 0) & (target.abs() != 1) & ~dropped[:, None]
        if invalid.any():
            row, column = invalid.nonzero()[0].tolist()
            value = target[row, column].item()
            raise ValueError(f'targets must be -1, 0 or 1, got {value} in row {row}, column {column} of a batch.')
        if dropped.any():
            logits, target = logits[~dropped], target[~dropped]
        self.outputs.append(logits)
        self.targets.append(target.to(torch.int8))
        self.positions.append(start + (~dropped).nonzero().flatten())

    def _own_rows(self) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, targets and positions in this rank."""
        logits, targets, positions = self.outputs.join(), self.targets.join(), self.positions.join()
        if logits is None:
            logits, targets = torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.int8)
            positions = torch.zeros(0, dtype=torch.long)
        return logits, targets, positions

    def _gather(self) -> None:
        """Bring the rows of all ranks together in the first.

        timm's OrderedDistributedSampler deals rows r, r + W, r + 2W, ... to rank r of W. If the row counts do not match
        that deal, as with streams, the rows follow rank by rank.
        """
        logits, targets, positions = self._own_rows()
        rank, world_size = dist.get_rank(), dist.get_world_size()
        shape = torch.tensor([len(logits), self.num_samples, logits.shape[1]], device=self.device)
        shapes = [torch.empty_like(shape) for _ in range(world_size)]
        dist.all_gather(shapes, shape)
        counts, seen, widths = torch.stack(shapes).T.tolist()
        self.images = sum(counts)
        if not len(logits):
            logits, targets = logits.new_zeros(0, max(widths)), targets.new_zeros(0, max(widths))
        is_dealt = all(count == len(range(i, sum(seen), world_size)) for i, count in enumerate(seen))
        positions = rank + world_size * positions if is_dealt else sum(seen[:rank]) + positions
        places = torch.arange(sum(counts)).split(counts)
        positions = gather_rows(positions[:, None], counts, places, self.device)
        if positions is not None:
            positions, order = positions.flatten().sort()
            places = order.argsort().split(counts)
        rows = [gather_rows(rows, counts, places, self.device) for rows in (logits, targets)]
        self.gathered = None if positions is None else tuple(of.numpy() for of in (*rows, positions))

    def summary(self) -> Dict[str, float]:
        """Compute the loss over the rows of this rank so far, without collectives."""
        logits, targets, _ = self._own_rows()
        return OrderedDict(loss=mean_bce(logits.numpy(), targets.numpy()))

    def _figures(self) -> Dict[str, float]:
        logits, targets, _ = self.gathered
        figures = ranking_figures(*check_scores(logits, targets, finite=True))

        def scores_of(rows: slice) -> np.ndarray:
            return torch.from_numpy(logits[rows]).sigmoid().numpy()

        figures.update(threshold_figures(scores_of, targets, self.threshold, topk=3, topk_gated=True))
        figures['loss'] = mean_bce(logits, targets)
        return OrderedDict((name, figures[name]) for name in self.metric_names)

    def compute(self, distributed: bool = False) -> Dict[str, float]:
        """Compute the figures of `metric_names`; if distributed, over the rows of all ranks, which all return the same.

        Raises:
            ValueError: If logits are not finite, or there are no rows.
        """
        if not distributed:
            self.gathered = tuple(rows.numpy() for rows in self._own_rows())
            self.images = len(self.gathered[0])
            return self._figures()
        self._gather()
        return on_first_rank(self._figures, self.device)
