"""Layout of maps in memory, and layers that do large maps in chunks."""

import pytest
import torch
import torch.nn.functional as F
from filler import fill_model
from tiny import FAMILIES, Recorder, assert_close, create, images
from torch.nn.modules.module import register_module_forward_hook

from timm.layers import freeze_batch_norm_2d

from gkgnet_timm.layers.block import ConvBnAct, FeedForward, Grapher, NodeGELU, _map_chunks

CHANNELS = 8
# of images in one, in whole images and in rows: a chunk has 2^20 numbers, 4 * CHANNELS of them a node
SHAPES = [((2, 24, 16), 1), ((5, 96, 160), 3), ((1, 300, 160), 2), ((2, 300, 160), 4)]


def nodes_map(batch_size, height, width, channels=CHANNELS):
    return images(batch_size, height, width, channels).to(memory_format=torch.channels_last)


def count_calls(module):
    """Without a hook, which would be shown the whole map."""
    calls, forward = [], module.forward
    module.forward = lambda x: calls.append(1) or forward(x)
    return calls


def run(layer, x):
    if isinstance(layer, FeedForward):
        return layer(x)
    return layer(x, F.avg_pool2d(x, 4))[0]


@pytest.fixture(params=['FeedForward', 'Grapher'])
def layer(request):
    made = FeedForward(CHANNELS) if request.param == 'FeedForward' else Grapher(CHANNELS, 4, 1, 2)
    return fill_model(made.double()).eval()


def first_conv(layer):
    return layer.fc1 if isinstance(layer, FeedForward) else layer.graph_conv.conv


@pytest.mark.parametrize('shape, chunks', SHAPES)
def test_chunks_are_the_whole(layer, shape, chunks):
    x = nodes_map(*shape)
    expected = run(layer, x).detach()
    calls = count_calls(first_conv(layer))
    with torch.no_grad():
        out = run(layer, x)
    assert len(calls) == chunks
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, expected)


def test_chunks_under_autocast(layer):
    x = nodes_map(*SHAPES[2][0]).float()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        out = run(layer.float(), x)
    with torch.autocast('cpu', torch.bfloat16):
        expected = run(layer, x).detach()
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)


MODES = ['training', 'norm in training', 'norm without statistics', 'other norm', 'wide kernel', 'hook', 'gradient']


@pytest.mark.parametrize('mode', MODES)
def test_one_chunk_where_all_of_the_batch_counts(layer, mode):
    x = nodes_map(*SHAPES[1][0])
    calls = count_calls(first_conv(layer))
    if mode == 'training':
        layer.train()
    if mode == 'norm in training':  # as adaptation at test time does
        first_conv(layer).bn.train()
    if mode == 'norm without statistics':
        first_conv(layer).bn.running_mean = None
        first_conv(layer).bn.running_var = None
    if mode == 'other norm':
        first_conv(layer).bn = torch.nn.GroupNorm(1, first_conv(layer).out_channels).double().eval()
    if mode == 'wide kernel':
        conv = first_conv(layer).conv
        first_conv(layer).conv = torch.nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1).double().eval()
    if mode == 'hook':
        first_conv(layer).register_forward_hook(lambda *args: None)
    with torch.set_grad_enabled(mode == 'gradient'):
        run(layer, x)
    assert len(calls) == 1


@pytest.fixture
def conv():
    return fill_model(ConvBnAct(CHANNELS, 4 * CHANNELS, 3, bias=True, act_layer=NodeGELU).double()).eval()


@pytest.mark.parametrize('shape, chunks', SHAPES)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_norm_in_chunks_is_the_whole(conv, memory_format, shape, chunks):
    x = nodes_map(*shape).contiguous(memory_format=memory_format)
    expected = conv(x).detach()
    calls = count_calls(conv.bn)
    with torch.no_grad():
        out = conv(x)
    assert len(calls) == chunks
    assert_close(out, expected)
    assert conv.reparameterize() is None
    with torch.no_grad():
        assert_close(conv(x), expected)


@pytest.mark.parametrize('watch', ['hook', 'global hook', 'wrapper'])
def test_norm_leaves_what_others_have_seen(conv, watch):
    x, seen = nodes_map(*SHAPES[1][0]), []
    inner, forward = conv.conv, conv.conv.forward

    def keep(module, args, output):
        if module is inner:
            seen.append(output)

    if watch == 'hook':
        handle = inner.register_forward_hook(keep)
    if watch == 'global hook':
        handle = register_module_forward_hook(keep)
    if watch == 'wrapper':
        inner.forward = lambda x: seen.append(forward(x)) or seen[-1]
    with torch.no_grad():
        conv(x)
        if watch != 'wrapper':
            handle.remove()
        assert_close(seen[0], F.conv2d(x, inner.weight, inner.bias, padding=1))


def test_frozen_norm_goes_in_chunks(conv):
    x = nodes_map(*SHAPES[1][0])
    expected = conv(x).detach()
    conv.bn = freeze_batch_norm_2d(conv.bn).eval()
    calls = count_calls(conv.bn)
    with torch.no_grad():
        assert_close(conv(x), expected)
    assert len(calls) == SHAPES[1][1]


def test_chunks_have_about_as_many_nodes_as_channels():
    x, channels = torch.zeros(1, 512, 64, 64), 2048
    with torch.no_grad():
        assert [stop - start for _, _, start, stop in _map_chunks([], x, channels)] == [8] * 8
        chunks = _map_chunks([], x, channels, min_nodes=channels)
    assert [stop - start for _, _, start, stop in chunks] == [32] * 2


def test_no_images(conv):
    with torch.no_grad():
        assert conv(nodes_map(0, 6, 5)).shape == (0, 4 * CHANNELS, 6, 5)


def test_gradients_keep_the_layout(layer):
    """A slice of all would give them another one, at the cost of a copy."""
    x = nodes_map(*SHAPES[1][0]).requires_grad_()
    layouts = []
    grown = x * 1
    grown.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=torch.channels_last)))
    run(layer, grown).square().sum().backward()
    assert layouts == [True]


def test_chunks_bound_memory():
    layer, x = FeedForward(CHANNELS).double().eval(), nodes_map(*SHAPES[3][0])
    with Recorder() as whole:
        layer(x)
    with torch.no_grad(), Recorder() as chunked:
        layer(x)
    assert whole.largest == 4 * x.numel() * 8
    assert chunked.largest <= (1 << 20) * 8


def test_gelu_in_the_layout_of_nodes():
    x = nodes_map(2, 6, 5)
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
