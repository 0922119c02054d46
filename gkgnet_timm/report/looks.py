"""Where the label nodes of a model looked, for the pictures of a report."""

from typing import Dict, List, Optional, Sequence

import torch.nn as nn
from PIL import Image

from ..explanation.explain import explain, has_label_graph
from .pictures import Look

__all__ = ['create_look']


def create_look(model: nn.Module, class_names: Sequence[str]) -> Optional[Look]:
    """Return a function that says where label nodes looked, None for a model without a label graph."""
    if not has_label_graph(model):
        return None

    def look(image: Image.Image, labels: Sequence[int]) -> Dict[int, List[List[int]]]:
        explanation = explain(model, image, labels=labels, class_names=class_names)
        places = {class_names[label]: label for label in labels}
        patches: Dict[int, List[List[int]]] = {label: [] for label in labels}
        width, height = explanation.image.size
        for patch in explanation.patches:
            sides = (width, height, width, height)
            box = [round(1000 * place / side) for place, side in zip(patch.box, sides)]
            patches[places[patch.label]].append([patch.stage, patch.group, *box])
        return patches

    return look
