"""The label graph of GKGNet: label nodes that choose patches in the maps of a trunk, and the scores of classes."""

from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn

from timm.layers import get_device_dtype
from timm.models import named_apply

from ..graph.layout import to_map, to_nodes
from ..layers.block import Block
from ..layers.checkpoint import checkpoint_block
from ..layers.conv import ConvBnAct
from ._checks import check_positive
from ._compat import jit_ignore
from ._edges import blocks_of_layers, recorded_edges

__all__ = ['LABEL_CFG', 'LABEL_CLASSIFIER', 'LabelBranch', 'LabelGraph', 'LabelStage', 'init_label_branch']

LABEL_CLASSIFIER = ('head_label', 'head_patch', 'label_embed')  # the modules with a row for each class
LABEL_CFG = dict(  # of every model with a label graph
    classifier=LABEL_CLASSIFIER,
    crop_pct=1.0,
    crop_mode='squash',
    paper_ids='arXiv:2308.14378',
    paper_name='GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition',
)


class LabelGraph(NamedTuple):
    """What the label nodes saw in a batch of images: what `forward_graph` of a model returns.

    Attributes:
        logits: (B, L).
        neighbors: For every stage, for every label block, the patches chosen by each class in each channel group,
            nearest first: (B, G, L, k), flat indices (row * width + column) into the map of that stage.
        label_nodes: For every stage, the label nodes (B, L, D_s) after its label blocks.
        patch_maps: For every stage, its feature map (B, C_s, H_s, W_s).
        embedding: The pooled patches (B, P).
        patch_neighbors: For every stage of the trunk, for every block, the nodes chosen by each patch in each channel
            group, nearest first: (B, G, H_s * W_s, k), flat indices into the map of that stage, pooled in the first two
            stages (by 4 and 2). Of a ViG, stages are its blocks. None unless asked for.
    """

    logits: torch.Tensor
    neighbors: List[List[torch.Tensor]]
    label_nodes: List[torch.Tensor]
    patch_maps: List[torch.Tensor]
    embedding: torch.Tensor
    patch_neighbors: Optional[List[List[torch.Tensor]]] = None


class LabelStage(nn.Module):
    """Project label nodes to the width of a stage, then update them by blocks whose candidates are its patches.

    Patches of another width are projected to that of the label nodes first.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        depth: int,
        k: int,
        num_groups: int,
        drop_path: float = 0.0,
        project: bool = True,
        patch_dim: Optional[int] = None,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grad_checkpointing = False
        self.proj = nn.Linear(in_dim, dim, **dd) if project else nn.Identity()
        self.patch_proj = nn.Identity()
        if patch_dim not in (None, dim):
            self.patch_proj = ConvBnAct(patch_dim, dim, bias=True, apply_act=False, **dd)
        self.blocks = nn.ModuleList(
            [Block(dim, k, num_groups=num_groups, drop_path=drop_path, **dd) for _ in range(depth)]
        )

    def forward(self, nodes: torch.Tensor, patches: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        nodes = self.proj(nodes)
        patches = self.patch_proj(patches)  # (B, C, H, W) -> (B, D, H, W)
        x = to_map(nodes, 1, nodes.shape[1])  # (B, L, D) -> (B, D, 1, L)
        neighbors: List[torch.Tensor] = []
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x, index = checkpoint_block(block, x, patches)
            else:
                x, index = block(x, patches)
            neighbors.append(index)
        return to_nodes(x), neighbors  # (B, D, 1, L) -> (B, L, D)


class LabelBranch:
    """Label nodes over the maps of a trunk: what GKGNet adds to it. A mixin of models.

    A model calls `_build_label_branch` once its trunk is built. It has `_forward_maps`, from images to its features
    and the maps, `_join`, from features and label nodes to what `forward_head` takes, and `_init_weights`.
    """

    def _build_label_branch(
        self,
        num_classes: int,
        patch_dims: Sequence[int],
        dims: Sequence[int],
        pooled_dim: int,
        label_k: int,
        num_groups: int,
        label_depth: int,
        drop_path_rates: Sequence[float],
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        """Build label stages and classifier.

        Args:
            num_classes: Number of classes L, each a label node. 0 for no label branch.
            patch_dims: Channels of each map.
            dims: Width of the label nodes at each map, multiples of 2 and of `num_groups`.
            pooled_dim: Width of the pooled patches.
            label_k: Neighbours of every label node.
            num_groups: Channel groups with a graph each.
            label_depth: Label blocks at the last map; the others have one each.
            drop_path_rates: Stochastic depth of the label blocks at each map.
            device: Device of parameters and buffers.
            dtype: Type of parameters and buffers.
        """
        check_positive(label_k=label_k, label_depth=label_depth, num_groups=num_groups)
        self.num_classes: int = num_classes
        self.num_prefix_tokens: int = num_classes
        self.label_k = label_k
        self.label_depth = label_depth
        self.num_groups = num_groups
        self.label_dims: Tuple[int, ...] = tuple(dims)
        self.patch_dims: Tuple[int, ...] = tuple(patch_dims)
        self.pooled_dim: int = pooled_dim
        self.label_drop_path_rates: Tuple[float, ...] = tuple(drop_path_rates)
        self.grad_checkpointing = False
        self._build_label_stages(device=device, dtype=dtype)
        self._build_classifier(device=device, dtype=dtype)

    def _keep_maps(self, count: int, pooled_dim: int) -> None:
        """Let a label branch that is built from here on look at the first maps alone."""
        for name in ('label_dims', 'patch_dims', 'label_drop_path_rates'):
            setattr(self, name, getattr(self, name)[:count])
        self.pooled_dim = pooled_dim

    def _build_label_stages(
        self, device: Union[str, torch.device, None] = None, dtype: Optional[torch.dtype] = None
    ) -> None:
        self.label_stages: nn.ModuleList = nn.ModuleList()
        if self.num_classes == 0:
            return
        last = len(self.label_dims) - 1
        for i, (dim, patch_dim) in enumerate(zip(self.label_dims, self.patch_dims)):
            self.label_stages.append(
                LabelStage(
                    self.label_dims[max(i - 1, 0)],
                    dim,
                    depth=self.label_depth if i == last else 1,
                    k=self.label_k,
                    num_groups=self.num_groups,
                    drop_path=self.label_drop_path_rates[i],
                    project=i > 0,
                    patch_dim=patch_dim,
                    device=device,
                    dtype=dtype,
                )
            )

    def _build_classifier(
        self, device: Union[str, torch.device, None] = None, dtype: Optional[torch.dtype] = None
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        self.label_embed: Optional[nn.Embedding] = None
        self.head_label: Optional[nn.Linear] = None
        self.head_patch: Optional[nn.Linear] = None
        if self.num_classes > 0:
            self.label_embed = nn.Embedding(self.num_classes, self.label_dims[0], **dd)
            self.head_label = nn.Linear(self.label_dims[-1], self.num_classes, **dd)  # row c scores node c
            self.head_patch = nn.Linear(self.pooled_dim, self.num_classes, **dd)

    @jit_ignore
    def get_classifier(self) -> Tuple[nn.Module, ...]:
        """The modules with one row per class: the two score layers and the label embedding."""
        if self.num_classes == 0:
            return nn.Identity(), nn.Identity(), nn.Identity()
        return self.head_label, self.head_patch, self.label_embed

    def _reset_labels(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one. The label stages stay, unless there were none or 0 classes remain."""
        dd = get_device_dtype(self)
        had_label_stages = len(self.label_stages) > 0
        self.num_classes = num_classes
        self.num_prefix_tokens = num_classes
        if num_classes == 0 or not had_label_stages:
            self._build_label_stages(**dd)
            named_apply(self._init_weights, self.label_stages)
            for stage in self.label_stages:
                stage.grad_checkpointing = self.grad_checkpointing
        self._build_classifier(**dd)
        for name in LABEL_CLASSIFIER:
            if num_classes > 0:
                self._init_weights(getattr(self, name), name)
        self.train(self.training)

    def forward_labels(
        self,
        maps: List[torch.Tensor],
    ) -> Tuple[List[torch.Tensor], List[List[torch.Tensor]]]:
        """Label nodes (B, L, D_s) after each of the stages whose maps are given, and the neighbours they chose."""
        assert self.label_embed is not None
        nodes = self.label_embed.weight.unsqueeze(0).expand(maps[0].shape[0], -1, -1)  # (L, D) -> (B, L, D)
        label_nodes: List[torch.Tensor] = []
        neighbors: List[List[torch.Tensor]] = []
        for i, stage in enumerate(self.label_stages):
            if i < len(maps):
                nodes, index = stage(nodes, maps[i])
                label_nodes.append(nodes)
                neighbors.append(index)
        return label_nodes, neighbors

    def score(self, nodes: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Logits (B, L) of label nodes (B, L, D) and pooled patches (B, P)."""
        assert self.head_label is not None and self.head_patch is not None
        label_scores = (nodes * self.head_label.weight).sum(dim=-1) + self.head_label.bias  # (B, L, D) -> (B, L)
        return label_scores + self.head_patch(pooled)

    @jit_ignore
    def forward_graph(self, x: torch.Tensor, patches: bool = False) -> LabelGraph:
        """Logits and the label graph that led to them, for pictures and analysis.

        The normal forward pass computes the same neighbours and drops them, so this is no slower.

        Args:
            x: Images (B, in_chans, H, W).
            patches: Also return the neighbours that patches chose in the trunk.

        Raises:
            ValueError: If the model has no label nodes (num_classes=0), or no patch graph and `patches` is True.
        """
        if self.num_classes == 0:
            raise ValueError('This model has num_classes=0 and so no label graph.')
        if patches:
            layers = blocks_of_layers(self)
            every = [block for blocks in layers for block in blocks]
            with recorded_edges(every, lambda block, x, candidates, neighbors: neighbors) as neighbors:
                graph = self.forward_graph(x)
            return graph._replace(patch_neighbors=[[neighbors[block] for block in blocks] for blocks in layers])
        features, maps = self._forward_maps(x)
        label_nodes, neighbors = self.forward_labels(maps)
        joined = self._join(features, label_nodes[-1])
        embedding = self.forward_head(joined, pre_logits=True)
        return LabelGraph(self.forward_head(joined), neighbors, label_nodes, maps, embedding)


def init_label_branch(module: nn.Module, name: str = '') -> None:
    """Initialise a module of the label branch, as published."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_in', nonlinearity='relu')
        nn.init.zeros_(module.bias)
    elif name in ('head_label', 'head_patch'):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.Linear, nn.Embedding)):
        module.reset_parameters()
