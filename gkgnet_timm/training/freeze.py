"""Training of the classifier alone: the trunk keeps its weights and its running statistics."""

from typing import Iterator, Set

import torch.nn as nn

__all__ = ['hold_statistics', 'set_frozen']


def _trained_modules(model: nn.Module) -> Set[nn.Module]:
    """The classifier, all modules in it, and the label branch of GKGNet.

    Raises:
        ValueError: If the model has no classifier with weights.
    """
    classifier = model.get_classifier()
    parts = list(classifier) if isinstance(classifier, (tuple, list, nn.ModuleList)) else [classifier]
    if not any(any(True for _ in part.parameters()) for part in parts):
        raise ValueError(f'--freeze trunk: {type(model).__name__} has no classifier that could be trained alone.')
    parts += [model.label_stages] if hasattr(model, 'label_stages') else []
    return {module for part in parts for module in part.modules()}


def _trunk(model: nn.Module) -> Iterator[nn.Module]:
    trained = _trained_modules(model)
    return (module for module in model.modules() if module not in trained)


def set_frozen(model: nn.Module, frozen: bool) -> None:
    """Freeze or release the parameters of the trunk: all but the classifier, and but the label branch of GKGNet."""
    trained = {parameter for module in _trained_modules(model) for parameter in module.parameters(recurse=False)}
    for module in _trunk(model):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(not frozen or parameter in trained)  # weights may be tied


def hold_statistics(model: nn.Module) -> None:
    """Let the norms of the trunk use their running statistics without changing them."""
    for module in _trunk(model):
        if any(name.startswith('running_') for name, _ in module.named_buffers(recurse=False)):
            module.eval()
