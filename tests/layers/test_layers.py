"""Layout of maps in memory, and convolutions with their norm."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import FAMILIES, Recorder, assert_close, create, images

from gkgnet_timm.layers import conv
from gkgnet_timm.layers.conv import NodeGELU, PointwiseConv2d


def test_gelu_in_the_layout_of_nodes():
    x = images(2, 6, 5, 8).to(memory_format=torch.channels_last)
    out = NodeGELU()(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, F.gelu(x))
    assert_close(NodeGELU()(x.contiguous()), F.gelu(x))


def test_pointwise_convolutions_are_matrix_products_of_nodes(monkeypatch):
    """As they are in half precision on a GPU."""
    model = create().train()
    plain = copy.deepcopy(model)
    groups = {module.groups for module in model.modules() if isinstance(module, PointwiseConv2d)}
    assert groups == {1, 4}
    x = images(2, 64)
    expected = plain(x)
    expected.square().sum().backward()
    monkeypatch.setattr(conv, '_has_tensor_cores', lambda x: True)
    with Recorder() as recorder:
        out = model(x)
    assert {tuple(shape[2:]) for shape in recorder.kernel_shapes} == {(3, 3)}
    assert_close(out, expected)
    out.square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize('size, is_product', [(46, True), (47, False)])
def test_few_nodes_are_multiplied_on_a_cpu(size, is_product):
    layer = PointwiseConv2d(3, 5, 1).double()
    x = images(1, size, channels=3)[:, :, :, :32].to(memory_format=torch.channels_last)
    with Recorder() as recorder:
        out = layer(x)
    assert bool(recorder.kernel_shapes) != is_product
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x, layer.weight, layer.bias)
    assert_close(out, expected)
    for ours, theirs in zip(
        torch.autograd.grad(out.square().sum(), layer.parameters()),
        torch.autograd.grad(expected.square().sum(), layer.parameters()),
    ):
        assert_close(ours, theirs)
    with Recorder() as recorder:
        torch.export.export(layer, (x,)).module()(x)
    assert recorder.kernel_shapes  # elsewhere a convolution may be the faster one


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
