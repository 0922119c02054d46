"""GKGNet and Pyramid ViG for timm. Importing the package registers the models."""

import sys

from .version import __version__


def _is_starting_a_command() -> bool:
    """Whether this import is the first step of `python -m gkgnet_timm`, which answers --help without torch."""
    after = sys.orig_argv[1:]
    return sys.argv[:1] == ['-m'] and '-m' in after and after[after.index('-m') + 1] == 'gkgnet_timm'


__all__ = ['__version__']
if not _is_starting_a_command():  # a command imports the models once its flags are known to be right
    from .inference.predictor import predict_images
    from .models import GkgNet, LabelGraph, PyramidVig
    from .weights.load import load_model

    __all__ += ['GkgNet', 'LabelGraph', 'PyramidVig', 'load_model', 'predict_images']
