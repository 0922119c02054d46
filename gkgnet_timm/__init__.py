"""GKGNet, Pyramid ViG and ViG for timm. Importing the package registers the models."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:  # what is loaded on first use
    from .explanation.explain import explain as explain
    from .export.export import export_model as export_model
    from .inference.predictor import class_names_of as class_names_of
    from .inference.predictor import predict_images as predict_images
    from .weights.load import load_model as load_model


def _is_starting_a_command() -> bool:
    """Whether this import is the first step of `python -m gkgnet_timm`, which answers --help without torch."""
    after = sys.orig_argv[1:]
    return sys.argv[:1] == ['-m'] and '-m' in after and after[after.index('-m') + 1] == 'gkgnet_timm'


def __getattr__(name: str) -> Any:
    """Load what reads files and images once it is used: models alone need less time and memory."""
    if name not in _ON_FIRST_USE:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = value = getattr(import_module(_ON_FIRST_USE[name], __name__), name)
    return value


_ON_FIRST_USE = {
    'class_names_of': '.inference.predictor',
    'explain': '.explanation.explain',
    'export_model': '.export.export',
    'load_model': '.weights.load',
    'predict_images': '.inference.predictor',
}
__all__ = ['__version__', 'class_names_of', 'explain', 'export_model', 'load_model', 'predict_images']
if not _is_starting_a_command():  # a command imports the models once its flags are known to be right
    from .models import GkgNet, GkgNetBackbone, LabelGraph, PyramidVig, Vig

    __all__ += ['GkgNet', 'GkgNetBackbone', 'LabelGraph', 'PyramidVig', 'Vig']
