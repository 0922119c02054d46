"""Maps of backbones in words that TorchScript knows, where it cannot compile timm's `forward_intermediates`."""

from typing import List, Optional, Tuple

import torch
import torch.nn as nn

from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer

__all__ = ['ScriptedMaps', 'scripted_kind']


def scripted_kind(backbone: nn.Module) -> Optional[str]:
    """'resnet' or 'vit' for models whose features are computed as those of timm's class, None for others."""
    for kind, cls in dict(resnet=ResNet, vit=VisionTransformer).items():
        if getattr(type(backbone), 'forward_features', None) is cls.forward_features:
            return kind
    return None


class ScriptedMaps:
    """A mixin of models with a `backbone` and `out_indices`, for scripted models alone.

    TorchScript compiles what `hasattr` finds: a model has an attribute `is_resnet` or `is_vit`, or neither.
    """

    def _resnet_maps(self, x: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        x = self.backbone.act1(self.backbone.bn1(self.backbone.conv1(x)))
        maps = [x]
        x = self.backbone.layer1(self.backbone.maxpool(x))
        maps.append(x)
        x = self.backbone.layer2(x)
        maps.append(x)
        x = self.backbone.layer3(x)
        maps.append(x)
        x = self.backbone.layer4(x)
        maps.append(x)
        return x, [maps[i] for i in self.out_indices]

    def _vit_maps(self, x: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        B, H, W = x.shape[0], x.shape[2], x.shape[3]
        H, W = self.backbone.patch_embed.dynamic_feat_size((H, W))
        x = self.backbone.patch_embed(x)
        x = self.backbone.patch_drop(self.backbone._pos_embed(x))
        x = self.backbone.norm_pre(x)
        maps: List[torch.Tensor] = []
        for i, block in enumerate(self.backbone.blocks):
            x = block(x)
            if i in self.out_indices:
                nodes = self.backbone.norm(x) if self.norm_maps else x
                nodes = nodes[:, self.backbone.num_prefix_tokens :]
                maps.append(nodes.reshape(B, H, W, -1).permute(0, 3, 1, 2))  # (B, N, C) -> (B, C, H, W)
        return self.backbone.norm(x), maps
