"""Grad-CAM of a model with a label graph, to compare its patches with."""

from typing import Sequence

import numpy as np
import torch
import torch.nn as nn

from ..runtime import UserError, one_line

__all__ = ['grad_cam']


def grad_cam(model: nn.Module, pixels: torch.Tensor, labels: Sequence[int]) -> np.ndarray:
    """Maps (N, H, W) of labels, from 0 to 1: where the last map of the trunk, as it is, raises their logits.

    Both paths to the logits count, that over label nodes and that over pooled patches. Gradients of the model are
    cleared.

    Args:
        model: Model with a label graph.
        pixels: Normalised image (1, C, H, W).
        labels: N indices of classes.

    Raises:
        UserError: If pytorch-grad-cam is not installed.
        ValueError: If the last map has an unknown layout.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        reason = one_line(error)
        raise UserError(f"Grad-CAM needs pytorch-grad-cam ({reason}): pip install 'gkgnet-timm[explain]'.") from None
    info = model.feature_info[-1]
    grid = [max(1, round(side / info['reduction'])) for side in pixels.shape[2:]]

    def to_map(x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4 and x.shape[1] == info['num_chs']:
            return x
        if x.ndim == 4 and x.shape[3] == info['num_chs']:
            return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        nodes = grid[0] * grid[1]
        if x.ndim == 3 and x.shape[1] >= nodes:  # class tokens come first
            return x[:, -nodes:].unflatten(1, grid).permute(0, 3, 1, 2)  # (B, N, C) -> (B, C, H, W)
        raise ValueError(f'Grad-CAM: {info["module"]} gives no map, but a tensor of shape {tuple(x.shape)}.')

    was_training = model.training
    cam = GradCAM(model, [model.get_submodule(info['module'])], to_map)
    try:
        # of pixels with a gradient, so that frozen weights do not matter
        images = pixels.detach().repeat(len(labels), 1, 1, 1).requires_grad_()
        return cam(images, [ClassifierOutputTarget(label) for label in labels])
    finally:
        cam.activations_and_grads.release()
        model.zero_grad()
        model.train(was_training)
