from ._trunk import VigTrunk
from .gkgnet import GkgNet, LabelGraph
from .pvig import PyramidVig
from .vig import Vig

__all__ = ['GkgNet', 'LabelGraph', 'PyramidVig', 'Vig', 'VigTrunk']
