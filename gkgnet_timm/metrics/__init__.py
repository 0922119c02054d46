"""Multi-label metrics of the published GKGNet evaluation, for whole arrays or for batches and ranks."""

from .evaluator import MultiLabelEvaluator
from .figures import (
    Array,
    Threshold,
    average_precision,
    by_class,
    chance_by_class,
    chance_level,
    check_scores,
    check_threshold,
    multilabel_metrics,
    rank_positives,
    ratio,
    threshold_figures,
)
from .ranks import on_first_rank, together

__all__ = [
    'Array',
    'MultiLabelEvaluator',
    'Threshold',
    'average_precision',
    'by_class',
    'chance_by_class',
    'chance_level',
    'check_scores',
    'check_threshold',
    'multilabel_metrics',
    'on_first_rank',
    'rank_positives',
    'ratio',
    'threshold_figures',
    'together',
]
