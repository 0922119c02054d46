"""GKGNet and Pyramid ViG for timm. Importing the package registers the models."""

from .models import GkgNet, LabelGraph, PyramidVig
from .version import __version__

__all__ = ['GkgNet', 'LabelGraph', 'PyramidVig', '__version__']
