"""BatchNorm and GELU in training, by the compiled kernels, against PyTorch in float64."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from tiny import create, images
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module

from gkgnet_timm.layers import conv, norm_act
from gkgnet_timm.layers.conv import ConvBnAct, NodeGELU

pytestmark = pytest.mark.skipif(not norm_act._load_kernels(), reason='there is no compiler')
SHAPES = [(2, 1, 1, 1), (1, 3, 1, 2), (2, 5, 7, 9), (4, 40, 16, 16), (1, 130, 33, 3), (2, 2600, 3, 3)]


def layer(channels, has_gelu=True, **kwargs):
    torch.manual_seed(0)
    block = ConvBnAct(channels, channels, 1, bias=True, apply_act=has_gelu, act_layer=NodeGELU, **kwargs).train()
    with torch.no_grad():
        block.bn.weight.uniform_(0.5, 2.0)
        block.bn.bias.normal_()
    return block


def maps(*shape, dtype=torch.float32, seed=0, offset=5):
    B, C, H, W = shape
    x = torch.randn(B, H, W, C, generator=torch.Generator().manual_seed(seed))
    return (3 * x + offset).to(dtype).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


def run(block, x, grad):
    """Output, gradients of the input, weight and bias, and running statistics."""
    x = x.detach().requires_grad_()
    norm = block.bn
    out = norm_act.norm_act(norm, x) if norm_act.takes_kernels(norm, x) else norm(x)
    found = torch.autograd.grad(out, (x, norm.weight, norm.bias), grad)
    return [out, *found, norm.running_mean, norm.running_var], norm.num_batches_tracked


@pytest.mark.parametrize('has_gelu', [True, False])
@pytest.mark.parametrize('shape', SHAPES)
def test_same_as_in_float64(shape, has_gelu):
    block, x, grad = layer(shape[1], has_gelu), maps(*shape), maps(*shape, seed=1, offset=0)
    exact = copy.deepcopy(block).double()
    assert norm_act.takes_kernels(block.bn, x) and not norm_act.takes_kernels(exact.bn, x.double())
    for momentum in (0.1, None):
        block.bn.momentum = exact.bn.momentum = momentum
        (actual, count), (expected, wanted) = run(block, x, grad), run(exact, x.double(), grad.double())
        assert count == wanted
        for a, b in zip(actual, expected):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=2e-6 * b.abs().max().item() + 1e-6)


GRADIENTS = {
    'contiguous': lambda B, C, H, W: torch.randn(B, C, H, W),
    'of a sum': lambda B, C, H, W: torch.ones(()).expand(B, C, H, W),
    'of pooled maps': lambda B, C, H, W: torch.randn(B, C, 1, 1).expand(B, C, H, W),
    'the same for all channels': lambda B, C, H, W: torch.randn(B, 1, H, W).expand(B, C, H, W),
    'half of the channels': lambda B, C, H, W: torch.randn(B, H, W, 2 * C)[..., C:].permute(0, 3, 1, 2),
    'every other channel': lambda B, C, H, W: torch.randn(B, H, W, 2 * C)[..., ::2].permute(0, 3, 1, 2),
}


@pytest.mark.parametrize('shape', [(2, 5, 7, 9), (1, 6, 5, 1), (4, 6, 1, 1)], ids=str)
@pytest.mark.parametrize('make', GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_of_any_strides(make, shape):
    block, x, grad = layer(shape[1]), maps(*shape), make(*shape)
    copied = maps(*shape).copy_(grad)
    for a, b in zip(run(copy.deepcopy(block), x, grad)[0], run(block, x, copied)[0]):
        assert torch.equal(a, b)


@pytest.mark.parametrize('has_gelu', [True, False])
def test_bfloat16_is_rounded_once(has_gelu):
    x, grad = maps(4, 40, 16, 16, dtype=torch.bfloat16), maps(4, 40, 16, 16, dtype=torch.bfloat16, seed=1, offset=0)
    block = layer(40, has_gelu)
    exact = copy.deepcopy(block).double()
    (actual, _), (expected, _) = run(block, x, grad), run(exact, x.double(), grad.double())
    assert actual[0].dtype == actual[1].dtype == torch.bfloat16 and actual[2].dtype == torch.float32
    for a, b in zip(actual[:2], expected):
        torch.testing.assert_close(a.double(), b, rtol=2**-8, atol=1e-4)
    for a, b in zip(actual[2:], expected[2:]):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


def test_gelu_of_any_number():
    x = torch.cat([torch.linspace(-14, 14, 100_001), torch.tensor([0.0, -0.0, 1e-30, 1e4, -1e4, 1e18, -1e18])])
    mean, scale, bias, out = torch.zeros(1), torch.ones(1), torch.zeros(1), torch.empty_like(x)
    norm_act._load_kernels().normalise_nodes(
        *(x.data_ptr(), len(x), 1, *(t.data_ptr() for t in (mean, scale, bias, out)), True, False, 1)
    )
    torch.testing.assert_close(out.double(), F.gelu(x.double()), rtol=4e-7, atol=2e-7)


def test_same_bits_with_any_number_of_threads():
    block, x, grad = layer(40), maps(4, 40, 33, 31), maps(4, 40, 33, 31, seed=1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(run(copy.deepcopy(block), x, grad)[0])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_not_a_number_spreads():
    x = maps(2, 5, 7, 9)
    x[0, 3, 0, 0] = float('nan')
    actual, _ = run(layer(5), x, maps(2, 5, 7, 9))
    assert actual[0][:, 3].isnan().all() and not actual[0][:, :3].isnan().any() and actual[1][:, 3].isnan().all()


def test_second_derivatives():
    block, x = layer(5), maps(2, 5, 4, 4).requires_grad_()
    exact, x64 = copy.deepcopy(block).double(), x.detach().double().requires_grad_()
    for norm, nodes in ((block.bn, x), (exact.bn, x64)):
        out = norm_act.norm_act(norm, nodes) if nodes is x else norm(nodes)
        (first,) = torch.autograd.grad(out.square().sum(), nodes, create_graph=True)
        first.square().sum().backward()
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-3, atol=1e-3 * x64.grad.abs().max().item())


@pytest.mark.parametrize('frozen', [['weight'], ['bias'], ['weight', 'bias'], ['x']])
def test_second_derivatives_of_frozen_layers(frozen):
    block, x = layer(5), maps(2, 5, 4, 4)
    inputs = dict(block.bn.named_parameters(), x=x)
    for name, tensor in inputs.items():
        tensor.requires_grad_(name not in frozen)
    free = [tensor for name, tensor in inputs.items() if name not in frozen]
    first = torch.autograd.grad(norm_act.norm_act(block.bn, x).square().sum(), free, create_graph=True)
    sum(part.square().sum() for part in first).backward()
    assert all(tensor.grad.isfinite().all() for tensor in free)


def test_recorded_operators_are_those_of_pytorch():
    block, x = layer(6).requires_grad_(False), maps(2, 6, 4, 4)
    recorded = make_fx(block)(x)
    torch.testing.assert_close(recorded(2 * x), block(2 * x))


WATCH = {
    'forward': lambda norm, seen: norm.register_forward_hook(seen),
    'before forward': lambda norm, seen: norm.register_forward_pre_hook(seen),
    'backward': lambda norm, seen: norm.register_full_backward_hook(seen),
    'before backward': lambda norm, seen: norm.register_full_backward_pre_hook(seen),
    'forward of all modules': lambda norm, seen: module.register_module_forward_hook(seen),
    'backward of all modules': lambda norm, seen: module.register_module_full_backward_hook(seen),
}


@pytest.mark.parametrize('watch', WATCH.values(), ids=WATCH)
def test_hooks_see_the_norm(watch):
    block, seen = layer(6), set()
    handle = watch(block.bn, lambda part, *_: seen.add(part))
    try:
        block(maps(2, 6, 4, 4).requires_grad_()).square().sum().backward()
    finally:
        handle.remove()
    assert block.bn in seen


def test_a_patched_norm_is_called(monkeypatch):
    block = layer(6)
    monkeypatch.setattr(block.bn, 'forward', lambda x: x - 1)
    x = maps(2, 6, 4, 4)
    assert torch.equal(block(x), block.conv(x) - 1)


def test_what_it_is_not_for():
    block, x = layer(6), maps(2, 6, 4, 4)
    assert norm_act.takes_kernels(block.bn, x)
    assert not norm_act.takes_kernels(block.bn, x.contiguous())  # maps whose nodes are not rows
    assert not norm_act.takes_kernels(block.bn, x.double())
    assert not norm_act.takes_kernels(block.bn, x[:1, :, :1, :1])  # PyTorch refuses a single value
    assert not norm_act.takes_kernels(block.bn.eval(), x)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(layer(6))
    assert not norm_act.takes_kernels(synced.bn, x)
    for name, tensor in dict(bias=torch.ones(6, 2)[:, 0], weight=torch.ones(6).double(), running_var=None).items():
        strange = layer(6).requires_grad_(False)
        delattr(strange.bn, name)
        setattr(strange.bn, name, tensor)
        assert not norm_act.takes_kernels(strange.bn, x)
    assert not norm_act.takes_kernels(ConvBnAct(6, 6, 1, act_layer=nn.ReLU).train().bn, x)


def test_a_step_of_a_model(monkeypatch):
    """Gradients of all parameters are those of PyTorch's layers, and so are the statistics."""
    model = create('pvig_ti_224', num_classes=5).train()
    plain, x = copy.deepcopy(model), images(4, 64).float()
    model.float(), plain.float()
    model(x).square().sum().backward()
    monkeypatch.setattr(conv, 'takes_kernels', lambda norm, x: False)
    plain(x).square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), plain.named_parameters()):
        if name.endswith('conv.bias'):  # of no effect before a BatchNorm: its gradient is rounding
            continue
        error = (a.grad - b.grad).norm() / (b.grad.norm() + 1e-3)
        assert error < 5e-3, name
    for (name, a), (_, b) in zip(model.named_buffers(), plain.named_buffers()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)
