"""Small models for tests, filled with weights by name, and what tests of them share."""

import torch
from filler import NARROW, fill_model, image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import timm

from gkgnet_timm.layers.position import RelativePosition, relative_position_tables

TI = (48, 96, 240, 384)
PYRAMIDS = ['gkgnet_ti_224', 'pvig_ti_224']
FAMILIES = [*PYRAMIDS, 'vig_ti_224']


def width_of(name, dims=NARROW):
    """Arguments for a model of some width: a ViG has four times the channels of the first stage of a pyramid."""
    return dict(embed_dim=4 * dims[0]) if name.startswith('vig') else dict(dims=dims)


def create(name='gkgnet_ti_224', img_size=64, num_classes=5, dims=NARROW, dtype=torch.float64, **kwargs):
    kwargs = dict(width_of(name, dims), img_size=img_size, num_classes=num_classes, dtype=dtype, **kwargs)
    return fill_model(timm.create_model(name, **kwargs)).eval()


def images(batch, height, width=None, channels=3, seed=0):
    return image((batch, channels, height, width or height), seed).double()


def nodes(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


class Recorder(TorchDispatchMode):
    """Bytes of the largest tensor that an operation returned, shapes of scores selected from and of convolved weights.

    It does not see into operators of ours.
    """

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.selected_shapes = []
        self.kernel_shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.gkgnet_timm.select_largest:
            self.selected_shapes.append(tuple(args[0].shape))
        if func.overloadpacket is torch.ops.aten.convolution:
            self.kernel_shapes.append(tuple(args[1].shape))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return out


def position_modules(model):
    return [module for module in model.modules() if isinstance(module, RelativePosition)]


def assert_tables_fresh(model):
    """Every table is exactly what would be computed for its grid and type now."""
    tables = position_modules(model)
    assert len(tables) == len(getattr(model, 'stages', ()))
    for module in tables:
        row_table, col_table = relative_position_tables(
            *module.grid_size, module.dim, module.reduction, dtype=module.row_table.dtype
        )
        assert torch.equal(module.row_table, row_table)
        assert torch.equal(module.col_table, col_table)
