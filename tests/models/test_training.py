"""Gradients, gradient checkpointing, initialisation and parameter groups; scripted, traced and compiled models."""

import copy
import math

import pytest
import torch
import torch.nn as nn
from filler import fill_model
from tiny import FAMILIES, PYRAMIDS, assert_close, create, images

import timm
from timm.layers import DropPath, create_feature_extractor, get_graph_node_names
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay

from gkgnet_timm.models._label_graph import LabelStage

# --- training


def train_step(model, x, seed=0):
    """Output, gradients and buffers of one step."""
    torch.manual_seed(seed)
    out = model(x)
    out.square().sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    return out.detach(), gradients, dict(model.named_buffers())


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('training', [True, False])
def test_checkpointing_changes_nothing(name, training):
    model = create(name, dtype=torch.float32, drop_path_rate=0.3, drop_rate=0.2).train(training)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    x = images(4, 64).float()
    out, gradients, buffers = train_step(model, x)
    again, twin_gradients, twin_buffers = train_step(twin, x)
    assert torch.equal(again, out)
    assert gradients.keys() == twin_gradients.keys() and buffers.keys() == twin_buffers.keys()
    for key, gradient in gradients.items():
        assert torch.equal(twin_gradients[key], gradient), key
    for key, buffer in buffers.items():
        assert torch.equal(twin_buffers[key], buffer), key
    counts = {int(v) for key, v in twin_buffers.items() if key.endswith('num_batches_tracked')}
    assert counts == {int(training)}


def saved_bytes(model, x):
    """Memory that autograd keeps between forward and backward, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize('name', FAMILIES)
def test_checkpointing_saves_memory(name):
    model = create(name, dtype=torch.float32, num_classes=80).train()
    x = images(2, 128).float()
    plain = saved_bytes(model, x)
    model.set_grad_checkpointing()
    assert saved_bytes(model, x) < plain / 4
    model.set_grad_checkpointing(False)
    assert saved_bytes(model, x) == plain


def test_checkpointing_of_label_blocks_saves_memory():
    """With many classes the label nodes outnumber the patches."""
    model = create(dtype=torch.float32, num_classes=1000).train()
    x = images(2, 64).float()
    model.set_grad_checkpointing()
    both = saved_bytes(model, x)
    for stage in model.label_stages:
        stage.grad_checkpointing = False
    assert both < saved_bytes(model, x) / 3


@pytest.mark.parametrize('name', FAMILIES)
def test_every_parameter_trains(name):
    model = create(name).train()
    model(images(3, 64)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        if parameter.ndim > 1:  # a bias before a BatchNorm has no effect
            assert (parameter.grad != 0).any(), key


@pytest.mark.parametrize('batch', [1, 3])
def test_label_stage_gradients(batch):
    """Against differences. For a map (B, C, L, 1) the BatchNorm backward of the CPU goes wrong, see `LabelStage`."""
    stage = LabelStage(4, 8, depth=2, k=3, num_groups=2, dtype=torch.float64).train()
    names, parameters = zip(*fill_model(stage).named_parameters())
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(batch, 5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    patches = torch.randn(batch, 8, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)

    def run(nodes, patches, *values):
        return torch.func.functional_call(stage, dict(zip(names, values)), (nodes, patches))[0]

    assert torch.autograd.gradcheck(run, (nodes, patches, *parameters), fast_mode=True)


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('height, width', [(64, 64), (64, 96), (32, 96), (96, 32)])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_single_image_trains_like_a_batch_of_copies(name, height, width, memory_format):
    """Statistics over the batch, and so output and mean gradient, are the same. No map has two nodes: that they are
    normalised to -1 and 1 whatever they are leaves a gradient of hardly more than rounding.

    Strides of a single image fit more than one memory format, and on the CPU the backward passes of BatchNorm and of
    grouped convolutions go wrong where one tensor is taken for another format than the next.
    """
    # the hidden layer of Pyramid ViG and ViG cannot be normalised over one pooled image
    unpooled = {} if name.startswith('gkgnet') else dict(num_classes=0, global_pool='')
    model = create(name, (height, width), **unpooled).to(memory_format=memory_format).train()
    twin = copy.deepcopy(model)
    x = images(1, height, width).contiguous(memory_format=memory_format)
    out, gradients, _ = train_step(model, x)
    twin_out, twin_gradients, _ = train_step(twin, x.repeat(3, 1, 1, 1).contiguous(memory_format=memory_format))
    assert_close(out.expand_as(twin_out), twin_out, 1e-7)
    for key, gradient in gradients.items():
        expected = twin_gradients[key] / 3
        # a bias before a BatchNorm has no gradient, only the rounding of large summands
        assert_close(gradient, expected, 1e-6 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize('name', FAMILIES)
def test_weight_decay_as_published(name):
    """Position and label embeddings are decayed, biases and norms are not."""
    model = create(name)
    assert model.no_weight_decay() == set()
    exempt, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert exempt['weight_decay'] == 0 and decayed['weight_decay'] == 0.05
    ids = {id(p) for p in decayed['params']}
    assert {key for key, p in model.named_parameters() if id(p) in ids} == {
        key for key, p in model.named_parameters() if p.ndim > 1
    }


@pytest.mark.parametrize('coarse', [True, False])
@pytest.mark.parametrize('name', PYRAMIDS)
def test_layers_in_order(name, coarse):
    model = create(name)
    layer = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert set(layer) == {key for key, _ in model.named_parameters()}
    last = max(layer.values())
    per_class = ('label_embed.', 'head_label.', 'head_patch.', 'head.')
    assert {key for key, group in layer.items() if group == last} == {k for k in layer if k.startswith(per_class)}

    def span(prefix):
        groups = [group for key, group in layer.items() if key.startswith(prefix)]
        return min(groups), max(groups)

    assert span('stem.') == (0, 0)
    for stage in range(4):
        first_layer, last_layer = span(f'stages.{stage}.')
        assert first_layer == (span(f'stages.{stage - 1}.')[1] if stage else 0) + 1 or name.startswith('gkgnet')
        assert last_layer < last
        if stage:
            assert first_layer > span(f'stages.{stage - 1}.')[1]
        if name.startswith('gkgnet'):
            labels = span(f'label_stages.{stage}.')
            assert labels[0] == labels[1] == (last_layer if coarse else last_layer + 1)
            assert stage == 3 or labels[1] < span(f'stages.{stage + 1}.')[0]


@pytest.mark.parametrize('coarse', [True, False])
def test_layers_of_a_vig_in_order(coarse):
    model = create('vig_ti_224')
    layer = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert layer.keys() == dict(model.named_parameters()).keys()
    for key, group in layer.items():
        part = key.split('.')
        assert group == (0 if part[0] == 'stem' else 13 if part[0] == 'head' else int(part[1]) + 1), key


def test_blocks_are_layers_of_their_own():
    model = create()
    layer = group_parameters(model, model.group_matcher(), reverse=True)
    blocks = [
        {group for key, group in layer.items() if key.startswith(f'stages.{s}.blocks.{b}.')}
        for s, depth in enumerate((2, 2, 6, 2))
        for b in range(depth)
    ]
    assert all(len(groups) == 1 for groups in blocks)
    assert sorted(set().union(*blocks)) == [group for (group,) in blocks] and len(set().union(*blocks)) == 12


def drop_rate(module):
    return module.drop_prob if isinstance(module, DropPath) else 0.0


@pytest.mark.parametrize('name', ['gkgnet_ti_224', 'gkgnet_m_224', 'pvig_b_224', 'vig_s_224'])
def test_drop_path_rates(name):
    model = timm.create_model(name, drop_path_rate=0.1, device='meta')
    blocks = [block for stage in getattr(model, 'stages', [model]) for block in stage.blocks]
    expected = [0.1 * j / (len(blocks) - 1) for j in range(len(blocks))]
    for part in ('grapher', 'ffn'):
        assert [drop_rate(getattr(b, part).drop_path) for b in blocks] == pytest.approx(expected)
    if name.startswith('gkgnet'):
        for s, stage in enumerate(model.label_stages):
            first = drop_rate(model.stages[s].blocks[0].grapher.drop_path)
            assert all(drop_rate(b.grapher.drop_path) == drop_rate(b.ffn.drop_path) == first for b in stage.blocks)


def test_drop_path_rates_of_label_stages():
    model = timm.create_model('gkgnet_224', drop_path_rate=0.1, device='meta')
    rates = [drop_rate(stage.blocks[0].ffn.drop_path) for stage in model.label_stages]
    assert rates == pytest.approx([0, 0.2 / 11, 0.4 / 11, 1 / 11])


@pytest.mark.parametrize('name', FAMILIES)
def test_initialisation(name):
    torch.manual_seed(0)
    model = timm.create_model(name)

    def check_std(key, weight, std):
        # five standard errors of the estimate
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel())), key
        assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel()), key

    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            check_std(key, module.weight, math.sqrt(2 / module.weight[0].numel()))
            assert (module.bias == 0).all(), key
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), key
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        elif key.endswith('.proj') and isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            check_std(key, module.weight, bound / math.sqrt(3))
            assert module.weight.abs().max() <= bound and 0 < module.bias.abs().max() <= bound, key
        elif isinstance(module, nn.Linear):
            check_std(key, module.weight, 0.01 if name.startswith('gkgnet') else math.sqrt(2 / 1024))
            assert (module.bias == 0).all(), key
        elif isinstance(module, nn.Embedding):
            check_std(key, module.weight, 1)
    assert (model.stem.pos_embed == 0).all()


# --- scripted, traced, compiled


@pytest.mark.filterwarnings('ignore:`torch.jit.script')
@pytest.mark.parametrize('name', FAMILIES)
def test_torchscript(name):
    model = create(name, scriptable=True)
    scripted = torch.jit.script(model)
    with torch.no_grad():
        for size in ((64, 64), (96, 32)):
            x = images(2, *size)
            assert_close(scripted(x), model(x))


@pytest.mark.parametrize('name', FAMILIES)
def test_fx_trace(name):
    model = create(name)
    last = get_graph_node_names(model)[1][-1]
    traced = create_feature_extractor(model, [last]).eval()
    with torch.no_grad():
        for size in ((64, 64), (96, 32)):
            x = images(2, *size)
            assert torch.equal(traced(x)[last], model(x))


@pytest.mark.parametrize('name', FAMILIES)
def test_compile_without_graph_breaks(name):
    # aot_eager traces all that inductor would compile, in a tenth of the time
    fewer = dict(depth=6) if name.startswith('vig') else dict(depths=(1, 1, 3, 1))  # the last dilate their graphs
    model = create(name, **fewer)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    x = images(2, 64)
    with torch.no_grad():
        assert_close(compiled(x), model(x))
