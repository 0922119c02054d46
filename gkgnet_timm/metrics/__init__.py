"""Multi-label metrics of the published GKGNet evaluation, for whole arrays or for batches and ranks."""

from .evaluator import MultiLabelEvaluator
from .figures import Array, Threshold, average_precision, chance_by_class, chance_level, multilabel_metrics

__all__ = [
    'Array',
    'MultiLabelEvaluator',
    'Threshold',
    'average_precision',
    'chance_by_class',
    'chance_level',
    'multilabel_metrics',
]
