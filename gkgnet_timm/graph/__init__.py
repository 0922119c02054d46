"""Operations on graph nodes. Importing the package registers the kernels of each device with the operators."""

from . import cpu, gpu
from .functional import interleave_max_relative, knn_neighbors

__all__ = ['cpu', 'gpu', 'interleave_max_relative', 'knn_neighbors']
