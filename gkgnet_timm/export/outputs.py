"""What an exported model gives: named outputs of normalised images."""

from typing import Dict, List, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm.utils import reparameterize_model

__all__ = ['Outputs', 'example_images', 'free_sizes']

LARGEST = 8192  # pixels of a side, as our models take them
Sizes = Dict[int, Union[int, 'torch.export.Dim']]


class Outputs(nn.Module):
    """Probabilities, logits and pooled features of a model, and the neighbours of its label graph if it has one.

    BatchNorm is folded into the convolutions, in a copy. Images and outputs are float32 whatever the model is.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model: nn.Module = reparameterize_model(model).to('cpu', dtype).requires_grad_(False)
        self.dtype = dtype
        self.has_neighbors: bool = hasattr(model, 'forward_graph') and model.num_classes > 0

    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Outputs of images (B, C, H, W).

        Returns:
            prediction (B, L), logits (B, L), embedding (B, D), and of a label graph neighbors (B, blocks, G, L, k): the
            patches that each class chose in each channel group, nearest first, in the label blocks one after another;
            -1 in place of what a map of few patches does not have.
        """
        images = images.to(self.dtype)
        neighbors: List[torch.Tensor] = []
        if self.has_neighbors:
            graph = self.model.forward_graph(images)
            logits, embedding = graph.logits, graph.embedding
            neighbors = [index for stage in graph.neighbors for index in stage]
        else:
            features = self.model.forward_features(images)
            logits = self.model.forward_head(features)
            embedding = self.model.forward_head(features, pre_logits=True)
        logits = logits.float()
        outputs = dict(prediction=logits.sigmoid(), logits=logits, embedding=embedding.float())
        if neighbors:
            k = max(index.shape[3] for index in neighbors)
            neighbors = [F.pad(index, (0, k - index.shape[3]), value=-1) for index in neighbors]
            outputs['neighbors'] = torch.stack(neighbors, dim=1)  # blocks x (B, G, L, k) -> (B, blocks, G, L, k)
        return outputs


def free_sizes(dynamic_size: bool, stride: int) -> Sizes:
    """The dimensions of images that an exported model leaves open: the batch, and sides in multiples of a stride."""
    sizes: Sizes = {0: torch.export.Dim('batch')}
    if dynamic_size:
        for place, name in ((2, 'height'), (3, 'width')):
            unit = torch.export.Dim(f'{name}_in_{stride}', min=2, max=LARGEST // stride)
            sizes[place] = stride * unit
    return sizes


def example_images(input_size: Tuple[int, int, int], dynamic_size: bool, stride: int) -> torch.Tensor:
    """Images to record a model with: two, and of no size that the model is made for if it is to take any.

    Otherwise what the model keeps for its own size would be recorded as well.
    """
    channels, height, width = input_size
    if dynamic_size:
        height, width = height + stride, width + 2 * stride
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
