"""Trunks that are trained less than the classifier: frozen with their running statistics, or at another rate."""

from typing import Iterator, Set

import torch
import torch.nn as nn

__all__ = ['hold_statistics', 'scale_trunk_rate', 'set_frozen']


def _trained_modules(model: nn.Module) -> Set[nn.Module]:
    """The classifier, all modules in it, and the label branch of GKGNet.

    Raises:
        ValueError: If the model has no classifier with weights.
    """
    classifier = model.get_classifier()
    parts = list(classifier) if isinstance(classifier, (tuple, list, nn.ModuleList)) else [classifier]
    if not any(any(True for _ in part.parameters()) for part in parts):
        raise ValueError(
            f'--freeze trunk, --backbone-lr-scale: {type(model).__name__} has no classifier apart from its trunk.'
        )
    parts += [model.label_stages] if hasattr(model, 'label_stages') else []
    return {module for part in parts for module in part.modules()}


def _trunk(model: nn.Module) -> Iterator[nn.Module]:
    trained = _trained_modules(model)
    return (module for module in model.modules() if module not in trained)


def _trained_parameters(model: nn.Module) -> Set[nn.Parameter]:
    """Parameters of the classifier and the label branch, those they share with the trunk included."""
    return {parameter for module in _trained_modules(model) for parameter in module.parameters(recurse=False)}


def set_frozen(model: nn.Module, frozen: bool) -> None:
    """Freeze or release the parameters of the trunk: all but the classifier, and but the label branch of GKGNet."""
    trained = _trained_parameters(model)
    for parameter in model.parameters():
        if parameter not in trained:
            parameter.requires_grad_(not frozen)


def hold_statistics(model: nn.Module) -> None:
    """Let the norms of the trunk use their running statistics without changing them."""
    for module in _trunk(model):
        if any(name.startswith('running_') for name, _ in module.named_buffers(recurse=False)):
            module.eval()


def scale_trunk_rate(optimizer: torch.optim.Optimizer, model: nn.Module, scale: float) -> None:
    """Multiply the learning rate of the trunk, which timm's schedules then keep: `lr_scale` of its parameter groups."""
    trained = _trained_parameters(model)
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        parts = ([p for p in group['params'] if (p in trained) is is_trained] for is_trained in (False, True))
        for params, factor in zip(parts, (scale, 1.0)):
            if params:
                optimizer.add_param_group(dict(group, params=params, lr_scale=group.get('lr_scale', 1.0) * factor))
