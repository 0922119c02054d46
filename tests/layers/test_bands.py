"""Large maps in bands of rows: the same numbers, and only where every layer treats each node alone."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from filler import fill_model
from tiny import Recorder, assert_close, images
from torch.nn.modules.module import register_module_forward_hook

from timm.layers import freeze_batch_norm_2d

from gkgnet_timm.layers import bands
from gkgnet_timm.layers.bands import in_bands, node_wise
from gkgnet_timm.layers.block import Block
from gkgnet_timm.layers.conv import ConvBnAct, NodeGELU
from gkgnet_timm.layers.stem import Stem

CHANNELS = 8
BAND = 1 << 17
# of images in one, in whole images and in rows: a band has BAND numbers, 4 * CHANNELS of them a node
SHAPES = [((2, 24, 16), 1), ((5, 48, 40), 3), ((1, 100, 60), 2), ((2, 100, 60), 4)]


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(bands, 'BAND', BAND)


def nodes_map(batch_size, height, width, channels=CHANNELS):
    return images(batch_size, height, width, channels).to(memory_format=torch.channels_last)


def count_calls(module):
    """Without a hook, which would be shown the whole map."""
    calls, forward = [], module.forward
    module.forward = lambda x: calls.append(1) or forward(x)
    return calls


def run(block, x):
    return block(x, F.avg_pool2d(x, 4))[0]


@pytest.fixture
def block():
    return fill_model(Block(CHANNELS, 4, 1, 2).double()).eval()


PARTS = ['ffn.fc1', 'grapher.graph_conv.conv']


@pytest.mark.parametrize('shape, bands', SHAPES)
def test_bands_are_the_whole(block, shape, bands):
    x = nodes_map(*shape)
    expected, neighbors = (out.detach() for out in block(x, F.avg_pool2d(x, 4)))
    calls, given = [count_calls(block.get_submodule(name)) for name in PARTS], x.clone()
    with torch.no_grad():
        out, found = block(x, F.avg_pool2d(x, 4))
    assert [len(c) for c in calls] == [bands] * 2
    assert torch.equal(x, given)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, expected)
    assert torch.equal(found, neighbors)


def test_bands_of_nodes_that_are_their_own_candidates():
    block = fill_model(Block(CHANNELS, 4, 1, 2, reduction=4).double()).eval()
    x = nodes_map(*SHAPES[1][0])
    calls = count_calls(block.ffn.fc1)
    with torch.no_grad():
        out = block(x)[0]
    assert len(calls) == SHAPES[1][1]
    assert_close(out, block(x)[0].detach())


def test_bands_under_autocast(block):
    x = nodes_map(*SHAPES[2][0]).float()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        out = run(block.float(), x)
    with torch.autocast('cpu', torch.bfloat16):
        expected = run(block, x).detach()
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)


MODES = ['training', 'norm in training', 'norm without statistics', 'other norm', 'wide kernel', 'hook', 'hook before']


@pytest.mark.parametrize('mode', [*MODES, 'subclass', 'gradient'])
@pytest.mark.parametrize('name', PARTS)
def test_whole_where_a_layer_sees_more_than_a_node(block, name, mode):
    x = nodes_map(*SHAPES[1][0])
    part = block.get_submodule(name)
    calls = count_calls(part)
    if mode == 'training':
        block.train()
    if mode == 'norm in training':  # as adaptation at test time does
        part.bn.train()
    if mode == 'norm without statistics':
        part.bn.running_mean = None
        part.bn.running_var = None
    if mode == 'other norm':
        part.bn = nn.GroupNorm(1, part.out_channels).double().eval()
    if mode == 'wide kernel':
        conv = part.conv
        part.conv = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1).double().eval()
    if mode == 'hook':
        part.register_forward_hook(lambda *args: None)
    if mode == 'hook before':
        part.bn.act.register_forward_pre_hook(lambda *args: None)
    if mode == 'subclass':
        owner = block.get_submodule(name.rpartition('.')[0])
        owner.__class__ = type('Other', (type(owner),), {})  # it could do anything with a map
    with torch.set_grad_enabled(mode == 'gradient'):
        run(block, x)
    assert len(calls) == 1


def test_a_hook_on_the_block_sees_the_whole(block):
    x, seen = nodes_map(*SHAPES[1][0]), []
    block.register_forward_hook(lambda module, args, output: seen.append(output[0].shape))
    calls = count_calls(block.ffn.fc1)
    with torch.no_grad():
        run(block, x)
    assert seen == [x.shape] and len(calls) == SHAPES[1][1]


def test_new_layers_mark_themselves():
    class Double(nn.Module):
        def forward(self, x):
            calls.append(x.shape)
            return 2 * x

    calls, layer, x = [], Double().eval(), nodes_map(*SHAPES[1][0])
    with torch.no_grad():
        for marked in (False, True):
            if marked:
                assert node_wise(Double) is Double
            calls.clear()
            assert torch.equal(in_bands((layer,), layer, (x,), width=4 * CHANNELS), 2 * x)
            assert len(calls) == (SHAPES[1][1] if marked else 1)


@pytest.fixture
def conv():
    return fill_model(ConvBnAct(CHANNELS, 4 * CHANNELS, 3, bias=True, act_layer=NodeGELU).double()).eval()


@pytest.mark.parametrize('shape, bands', SHAPES)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_norm_in_bands_is_the_whole(conv, memory_format, shape, bands):
    x = nodes_map(*shape).contiguous(memory_format=memory_format)
    expected = conv(x).detach()
    calls = count_calls(conv.bn)
    with torch.no_grad():
        out = conv(x)
    assert len(calls) == bands
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


def test_frozen_norm_goes_in_bands(conv):
    x = nodes_map(*SHAPES[1][0])
    expected = conv(x).detach()
    conv.bn = freeze_batch_norm_2d(conv.bn).eval()
    calls = count_calls(conv.bn)
    with torch.no_grad():
        assert_close(conv(x), expected)
    assert len(calls) == SHAPES[1][1]


def test_bands_have_about_as_many_nodes_as_channels():
    x, rows = torch.zeros(1, 8, 64, 64), []

    def note(x):
        rows.append(x.shape[2])
        return x

    with torch.no_grad():
        in_bands((), note, (x,), width=2048)  # BAND numbers would be a row
        assert rows == [32] * 2
        rows.clear()
        in_bands((), note, (x,), width=256)
    assert rows == [8] * 8


def test_no_images(conv):
    with torch.no_grad():
        assert conv(nodes_map(0, 6, 5)).shape == (0, 4 * CHANNELS, 6, 5)


def test_gradients_keep_the_layout(block):
    """A slice of all would give them another one, at the cost of a copy."""
    x = nodes_map(*SHAPES[1][0]).requires_grad_()
    layouts = []
    grown = x * 1
    grown.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=torch.channels_last)))
    run(block, grown).square().sum().backward()
    assert layouts == [True]


def test_bands_bound_memory(block):
    x = nodes_map(*SHAPES[3][0])
    maps, y = (x, torch.zeros(2, 2, 100, 60, 4, dtype=torch.int64)), torch.zeros(2, 64, CHANNELS).double()
    with torch.no_grad(), Recorder() as whole:
        block.ffn(x + block.grapher(*maps, y))
    with torch.no_grad(), Recorder() as banded:
        out = in_bands((block.grapher,), block.grapher, maps, (y,), residual=x, width=4 * CHANNELS)
        assert in_bands((block.ffn,), block.ffn, (out,), residual=out, width=4 * CHANNELS, out=out) is out
    assert whole.largest == 4 * x.numel() * 8
    assert banded.largest <= BAND * 8


@pytest.mark.parametrize('batch_size, size, groups', [(2, 64, 1), (3, 128, 3), (5, 96, 3), (1, 256, 1)])
def test_stem_takes_a_few_images_at_a_time(batch_size, size, groups, monkeypatch):
    monkeypatch.setattr(bands, 'GROUP', 1 << 16)  # numbers in the largest map of a group
    stem = fill_model(Stem(3, 26, size).double()).eval()
    x = images(batch_size, size)
    expected = stem(x).detach()
    calls = count_calls(stem.conv1)
    with torch.no_grad():
        out = stem(x)
        assert len(calls) == groups and out.is_contiguous(memory_format=torch.channels_last)
        assert_close(out, expected)
        handle = stem.conv2.conv.register_forward_hook(lambda *args: None)
        assert_close(stem(x), expected)
        assert len(calls) == groups + 1  # what is hooked sees whole maps
        handle.remove()
        stem.train()(x)
        assert len(calls) == groups + 2  # statistics are those of the batch
