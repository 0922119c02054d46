"""Operations on graph nodes. Importing the package registers the kernels of each device with the operators."""

from . import cpu, gpu  # noqa: F401
from .functional import interleave_max_relative, knn_neighbors

__all__ = ['interleave_max_relative', 'knn_neighbors']
