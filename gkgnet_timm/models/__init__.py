from ._label_graph import LabelGraph
from .gkgnet import GkgNet
from .gkgnet_backbone import GkgNetBackbone
from .pvig import PyramidVig
from .vig import Vig

__all__ = ['GkgNet', 'GkgNetBackbone', 'LabelGraph', 'PyramidVig', 'Vig']
