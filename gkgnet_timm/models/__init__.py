from .gkgnet import GkgNet, LabelGraph
from .pvig import PyramidVig

__all__ = ['GkgNet', 'LabelGraph', 'PyramidVig']
