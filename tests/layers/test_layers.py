"""Layout of maps in memory, and convolutions with their norm."""

import pytest
import torch
import torch.nn.functional as F
from tiny import FAMILIES, assert_close, create, images

from gkgnet_timm.layers.conv import NodeGELU


def test_gelu_in_the_layout_of_nodes():
    x = images(2, 6, 5, 8).to(memory_format=torch.channels_last)
    out = NodeGELU()(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, F.gelu(x))
    assert_close(NodeGELU()(x.contiguous()), F.gelu(x))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', FAMILIES)
def test_maps_are_in_the_layout_of_nodes(name, channels):
    """Any other layout is copied at every graph convolution of patches."""
    model = create(name, in_chans=channels)
    others = []

    def check(module, args, output):
        if not output.is_contiguous(memory_format=torch.channels_last):
            others.append(module)

    for conv_name, module in model.named_modules():
        is_trunk = conv_name.startswith('st') and conv_name != 'stem.conv1.conv'
        if isinstance(module, torch.nn.Conv2d) and is_trunk:
            module.register_forward_hook(check)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            model(images(2, 64, channels=channels).to(memory_format=memory_format))
    assert not others
