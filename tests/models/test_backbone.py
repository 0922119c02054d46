"""The label graph on timm models: which ones, what they give, and what is kept of them."""

import pytest
import torch
from tiny import assert_close

import timm
from timm.layers import DropPath
from timm.models import group_parameters
from timm.models._manipulate import group_with_matcher
from timm.optim import param_groups_layer_decay

import gkgnet_timm  # noqa: F401
from gkgnet_timm.models import _backbone
from gkgnet_timm.models._backbone import default_indices, prefix_groups

SIZE = 96
TINY = [
    'test_byobnet',
    'test_coatnet',
    'test_convnext',
    'test_efficientnet',
    'test_mambaout',
    'test_maxvit',
    'test_nfnet',
    'test_resnet',
    'test_vit',
    'test_vit_relpos',
]


def create(backbone='test_resnet', name='gkgnet_backbone', num_classes=5, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, backbone=backbone, num_classes=num_classes, dtype=dtype, **kwargs).eval()


def images(model, batch=2, dtype=torch.float64):
    size = timm.data.resolve_input_data_config(model)['input_size']
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def messages(**kwargs):
    with pytest.raises(ValueError) as error:
        create(**kwargs)
    return str(error.value)


# --- the same label graph as GKGNet's


@pytest.mark.parametrize('options', [{}, dict(label_depth=2, label_k=5)])
def test_on_the_trunk_of_gkgnet_it_is_gkgnet(options):
    dd = dict(num_classes=5, dtype=torch.float64)
    gkgnet = timm.create_model('gkgnet_ti_224', **dd, **options).eval()
    model = create('gkgnet_ti_224', **options)
    state = {k if k.startswith(('label_', 'head_')) else f'backbone.{k}': v for k, v in gkgnet.state_dict().items()}
    model.load_state_dict(state)
    x = images(model)
    with torch.no_grad():
        graph, expected = model.forward_graph(x), gkgnet.forward_graph(x)
        assert_close(model(x), gkgnet(x), 1e-12)
    assert_close(graph.logits, expected.logits, 1e-12)
    for actual, wanted in zip(graph.label_nodes + graph.patch_maps, expected.label_nodes + expected.patch_maps):
        assert_close(actual, wanted, 1e-12)
    for actual, wanted in zip(graph.neighbors, expected.neighbors):
        assert all(torch.equal(*pair) for pair in zip(actual, wanted))


def test_on_pyramid_vig_the_label_nodes_are_those_of_gkgnet():
    """Its head has a hidden layer more, so the part of the scores that comes of patches is another."""
    gkgnet = timm.create_model('gkgnet_ti_224', num_classes=5, num_groups=1, dtype=torch.float64).eval()
    model = create('pvig_ti_224', num_groups=1)
    gkgnet_state = gkgnet.state_dict()
    state = model.state_dict()
    for key in state:
        source = gkgnet_state.get(key.removeprefix('backbone.'))
        state[key] = state[key] if source is None or source.shape != state[key].shape else source
    model.load_state_dict(state)
    x = images(model)
    with torch.no_grad():
        actual, expected = model.forward_graph(x), gkgnet.forward_graph(x)
        pooled = model.backbone(x)
        logits = (actual.label_nodes[-1] * model.head_label.weight).sum(-1) + model.head_label.bias
        assert_close(actual.logits, logits + model.head_patch(pooled), 1e-12)
    for pair in zip(actual.label_nodes + actual.patch_maps, expected.label_nodes + expected.patch_maps):
        assert_close(*pair, 1e-12)


# --- backbones


@pytest.mark.parametrize('name', TINY)
def test_backbones(name):
    model = create(name)
    x = images(model, 3)
    with torch.no_grad():
        logits = model(x)
        graph = model.forward_graph(x)
        single = torch.cat([model(image[None]) for image in x])
    assert logits.shape == (3, 5)
    assert_close(graph.logits, logits, 0)
    assert_close(single, logits, 1e-8)
    for patches, info, nodes, neighbors in zip(
        graph.patch_maps, model.feature_info, graph.label_nodes, graph.neighbors
    ):
        assert patches.shape[:2] == (3, info['num_chs'])
        assert nodes.shape[:2] == (3, 5)
        for chosen in neighbors:
            assert chosen.shape[:3] == (3, 2, 5)
            assert 0 <= chosen.min() and chosen.max() < patches.shape[2:].numel()


@pytest.mark.parametrize('name', TINY)
@pytest.mark.parametrize('checkpointing', [False, True])
def test_every_parameter_trains(name, checkpointing):
    model = create(name, dtype=torch.float32, num_classes=4).train()
    if checkpointing:
        model.set_grad_checkpointing()
        assert model.label_stages[0].grad_checkpointing
    model(images(model, dtype=torch.float32)).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


FAMILIES = ['cait_xxs24_224', 'hiera_tiny_224', 'levit_128', 'regnety_002', 'swinv2_tiny_window8_256', 'vgg11']


@pytest.mark.parametrize('name', FAMILIES)
def test_families_of_other_forms(name):
    size = timm.get_pretrained_cfg(name).input_size[-1]
    model = timm.create_model('gkgnet_backbone', backbone=name, num_classes=3, img_size=2 * size, device='meta').train()
    x = torch.empty(2, 3, 2 * size, 2 * size, device='meta')
    model(x).sum().backward()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.forward_graph(x).logits.shape == (2, 3)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers['head_label.weight'] == layers['label_embed.weight'] == max(layers.values()) > 1


@pytest.mark.parametrize(
    'reductions, indices',
    [
        ([2, 4, 8, 16, 32], [1, 2, 3, 4]),
        ([4, 8, 16, 32], [0, 1, 2, 3]),
        ([16] * 12, [8, 9, 10, 11]),
        ([16, 32, 64], [0, 1, 2]),
        ([1, 2, 4, 8, 16, 32], [2, 3, 4, 5]),
        ([2, 4, 8, 16, 32, 64], [2, 3, 4, 5]),
        ([8, 16, 16, 16], [0, 1, 2, 3]),
        ([12, 12, 12, 17, 17, 17], [2, 5]),
        ([16, 16], [0, 1]),
    ],
)
def test_default_maps(reductions, indices):
    assert default_indices(reductions) == indices


def test_maps_of_a_plain_vit_are_normed():
    model = create('test_vit')
    x = images(model)
    _, expected = model.backbone.forward_intermediates(x, indices=model.out_indices, norm=True)
    assert model.out_indices == [2, 3, 4, 5]
    for actual, wanted in zip(model.forward_graph(x).patch_maps, expected):
        assert_close(actual, wanted, 0)


def test_chosen_maps_and_widths():
    model = create(out_indices=(2, -1), label_dim=40, num_groups=4)
    own = create().patch_dims
    assert model.out_indices == [2, 4]
    assert model.patch_dims == (own[1], own[3])
    assert model.label_dims == (40, 40) != model.patch_dims
    assert [type(stage.patch_proj).__name__ for stage in model.label_stages][-1] == 'ConvBnAct'
    assert model(images(model)).shape == (2, 5)
    assert create('test_convnext', num_groups=5).label_dims[0] % 10 == 0


def test_what_cannot_be():
    assert messages(backbone='resnet5O').startswith("Unknown backbone 'resnet5O', similar: resnet50")
    assert 'NAME.TAG' in messages(backbone='hf-hub:timm/resnet50') and 'NAME.TAG' in messages(backbone=3)
    assert 'known: test_resnet.' in messages(backbone='test_resnet.nope')
    assert 'drop_path_rate' in messages(backbone='vgg11', drop_path_rate=0.1)
    assert 'has 5 maps, 0 to 4' in messages(out_indices=(1, 5))
    assert 'must rise' in messages(out_indices=(2, 1)) and 'numbers of maps' in messages(out_indices=3)
    assert 'a multiple of 6 for num_groups=3' in messages(label_dim=8, num_groups=3)
    assert 'num_classes=0' in messages(global_pool='')
    assert 'label_k must be a positive integer' in messages(label_k=0)
    assert messages(backbone='gemma4_vit_167m').startswith('gemma4_vit_167m cannot be a backbone: ')
    with pytest.raises(TypeError, match='unexpected keyword'):
        create(labels=3)


# --- timm's interface


def test_cfg_is_that_of_the_backbone():
    model = create('vit_tiny_patch16_384.augreg_in21k_ft_in1k', device='meta', dtype=None)
    cfg = model.pretrained_cfg
    assert cfg['input_size'] == (3, 384, 384) and cfg['mean'] == cfg['std'] == (0.5, 0.5, 0.5)
    assert cfg['first_conv'] == 'backbone.patch_embed.proj' and cfg['license'] == 'apache-2.0'
    assert (cfg['crop_pct'], cfg['crop_mode']) == (1.0, 'squash')
    assert create('mobilenetv4_conv_small', device='meta', dtype=None).pretrained_cfg['interpolation'] == 'bicubic'
    registered = timm.get_pretrained_cfg('gkgnet_swin_tiny')
    assert registered.license == 'mit' and registered.fixed_input_size and not registered.has_weights


def test_no_classes_is_the_backbone():
    model = create('test_resnet', num_classes=0)
    x = images(model)
    assert_close(model(x), model.backbone(x), 0)
    assert not [key for key, _ in model.named_parameters() if not key.startswith('backbone.')]
    with pytest.raises(ValueError, match='no label graph'):
        model.forward_graph(x)
    model.set_grad_checkpointing()
    model.reset_classifier(7, 'max')
    assert model(x).shape == (2, 7) and model.backbone.global_pool.pool_type == 'max'
    assert all(stage.grad_checkpointing for stage in model.label_stages)
    pooled = create('test_resnet', num_classes=0, global_pool='')(x)
    assert pooled.ndim == 4


def test_reset_keeps_label_blocks():
    model = create()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(3)
    for key, value in model.state_dict().items():
        fresh = key.startswith(('label_embed', 'head_'))
        assert (len(value) == 3) if fresh else torch.equal(value, before[key])


def test_layers_and_decay():
    model = create('test_convnext')
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    own = group_parameters(model.backbone, model.backbone.group_matcher(), reverse=True)
    assert set(layers) == set(dict(model.named_parameters()))
    assert layers['backbone.stem.0.weight'] == own['stem.0.weight'] == 0
    for key, layer in own.items():
        if not key.startswith('head'):
            assert layers[f'backbone.{key}'] == layer
    assert layers['label_stages.0.blocks.0.ffn.fc1.conv.weight'] == layers['label_embed.weight'] == max(layers.values())
    scales = {group['lr_scale'] for group in param_groups_layer_decay(model, layer_decay=0.5)}
    assert max(scales) == 1 and len(scales) > 3


def test_groups_of_alternatives():
    matcher = prefix_groups(dict(stem=r'^a|b', blocks=[(r'^c\.(\d+)', None), (r'^[^d]x', (9,))], none=None), 'p.')
    names = [(name, None) for name in ('p.a', 'p.b', 'a', 'p.c.1', 'p.ex', 'p.dx', 'q')]
    layers = group_with_matcher(iter(names), matcher, reverse=True)
    assert layers['p.a'] == layers['p.b'] == 0
    assert layers['p.c.1'] == 1 and layers['p.ex'] == 2
    assert layers['a'] == layers['p.dx'] == layers['q'] == 3


def test_weight_decay_of_the_backbone():
    names = create('test_vit').no_weight_decay()
    assert 'backbone.pos_embed' in names and all(name.startswith('backbone.') for name in names)


def test_sizes():
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    meta = dict(device='meta', dtype=None)
    fixed = create('vit_tiny_patch16_224', **meta)
    assert fixed._traits['fixed_input_size']
    fixed.set_input_size((64, 96))
    assert fixed.backbone.patch_embed.grid_size == (4, 6)
    with pytest.raises(AssertionError, match='doesn.t match model'):
        create('test_vit', dynamic_img_size=False, **meta)(x.to('meta'))
    for name in ('vit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224'):
        assert create(name, dynamic_img_size=True, **meta)(x.to('meta', torch.float32)).shape == (1, 5)
    fixed = create('test_vit')
    fixed.set_input_size((64, 96))
    assert fixed(x).shape == (1, 5)
    assert fixed._traits['img_size'] == fixed._model_args['img_size'] == (64, 96)
    dynamic = create('test_vit', dynamic_img_size=True)
    assert dynamic(x).shape == (1, 5)
    assert create('test_vit', img_size=(64, 96))(x).shape == (1, 5)
    padded = create('test_vit', dynamic_img_size=True, dynamic_img_pad=True)
    assert padded(torch.randn(1, 3, 50, 60, dtype=torch.float64)).shape == (1, 5)
    with pytest.raises(ValueError, match='cannot change its image size'):
        create('cait_xxs24_224', device='meta', dtype=None).set_input_size(256)


def test_features_only():
    model = timm.create_model('gkgnet_backbone', backbone='levit_128', features_only=True, device='meta')
    assert model.feature_info.reduction() == [16, 32, 64]
    model = timm.create_model('gkgnet_backbone', backbone='test_resnet', features_only=True, out_indices=(1, 2))
    shapes = [tuple(x.shape[2:]) for x in model(torch.randn(1, 3, 64, 64))]
    assert shapes == [(8, 8), (4, 4)]
    assert not [key for key in model.state_dict() if 'label' in key or 'layer4' in key]


@pytest.mark.parametrize('name, kwargs', [('efficientvit_b0', {}), ('test_resnet', dict(global_pool='catavgmax'))])
def test_pruned_backbone_of_a_pooling_that_cannot_be_off(name, kwargs):
    model = create(name, **kwargs)
    model.prune_intermediate_layers([0])
    assert model(torch.randn(1, 3, 64, 64, dtype=torch.float64)).shape[0] == 1 and model.num_classes == 0
    assert not model.label_stages


def test_rates_of_dropping():
    """None leaves a backbone its own stochastic depth, 0 switches it off."""
    meta = dict(device='meta', dtype=None)
    for rate, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        model = create('swin_tiny_patch4_window7_224', drop_path_rate=rate, **meta)
        rates = [module.drop_prob for module in model.backbone.modules() if isinstance(module, DropPath)]
        assert max([0.0, *rates]) == pytest.approx(expected)
        assert model.label_drop_path_rates == pytest.approx([step / 3 * (rate or 0.0) for step in range(4)])
    create('vgg11', drop_path_rate=0.0, **meta)  # has none
    model = create(drop_rate=0.5).train()
    features = model.forward_features(images(model))
    model.head_patch.weight.data.zero_()
    assert not torch.equal(model.forward_head(features), model.forward_head(features))  # of the label nodes


def test_options_of_the_backbone_are_passed_on(monkeypatch):
    calls = []
    original = timm.create_model
    monkeypatch.setattr(_backbone.timm, 'create_model', lambda *a, **k: calls.append((a, k)) or original(*a, **k))
    create('test_vit', in_chans=1, drop_path_rate=0.2, global_pool='avg', img_size=64)
    name, options = calls[-1]
    assert name == ('test_vit',) and not options['pretrained']
    kept = {key: options[key] for key in ('in_chans', 'drop_path_rate', 'global_pool', 'img_size', 'num_classes')}
    assert kept == dict(in_chans=1, drop_path_rate=0.2, global_pool='avg', img_size=64, num_classes=0)
    assert all(str(call[1].get('device')) == 'meta' for call in calls[1:-1])


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit', 'test_efficientnet'])
def test_compiled_and_scripted(name):
    """Without graph breaks; the scripted model has maps of its own where TorchScript cannot compile those of timm."""
    model = create(name)
    x = images(model)
    with torch.no_grad():
        expected = model(x)
        # torch 2.10 and 2.11 compile timm's resampled positions to float32
        assert_close(torch.compile(model, backend='eager', fullgraph=True)(x), expected, tolerance=1e-7)
        assert_close(torch.jit.script(model)(x), expected)


def test_autocast_and_bfloat16():
    model = create('test_convnext', dtype=torch.float32).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = model(images(model, dtype=torch.float32)).square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() and p.dtype == torch.float32 for p in model.parameters())
    assert model.to(torch.bfloat16).eval()(images(model, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_features_only_of_a_vit_are_the_maps_that_label_nodes_see():
    model = create('test_vit', dtype=torch.float32)
    maps = timm.create_model('gkgnet_backbone', backbone='test_vit', features_only=True)
    assert not maps.model.load_state_dict(model.state_dict(), strict=False).missing_keys
    x = images(model, dtype=torch.float32)
    for actual, expected in zip(maps.eval()(x), model.forward_graph(x).patch_maps):
        assert_close(actual, expected, 0)
    neck = create('samvit_base_patch16', device='meta', dtype=None)  # its norm changes the width
    assert {info['num_chs'] for info in neck.feature_info} == set(neck.patch_dims) == {256}


@pytest.mark.parametrize('name', ['gkgnet_backbone', 'gkgnet_ti_224'])
def test_label_branch_after_pruning(name):
    kwargs = dict(backbone='test_resnet') if name == 'gkgnet_backbone' else {}
    model = timm.create_model(name, num_classes=5, img_size=64, **kwargs)
    model.prune_intermediate_layers([0])
    model.reset_classifier(3, 'avg')
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3) and len(model.label_stages) == 1


def test_pooling_that_is_reset():
    vit = create('test_vit')
    with pytest.raises(ValueError, match='avg.*Another norm goes with it: create the model'):
        vit.reset_classifier(7, 'avg')  # a folder of it would be made with this norm
    model = create('test_resnet')
    x = images(model)
    for pool in ('max', 'avg', None):
        model.reset_classifier(7, pool)
        assert model(x).shape == (2, 7)
    model.reset_classifier(0, '')
    for kwargs, message in (
        (dict(num_classes=7), 'num_classes=0'),
        (dict(num_classes=0, global_pool='catavgmax'), 'another width'),
        (dict(num_classes=0, global_pool='nope'), "global_pool='nope'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.reset_classifier(**kwargs)
    unpooled = create('mobilenetv3_small_050', num_classes=0, global_pool='', dtype=torch.float32)
    unpooled.reset_classifier(4, 'avg')
    assert unpooled(torch.randn(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_classes=-1), 'num_classes must be'),
        (dict(num_classes=True), 'num_classes must be'),
        (dict(img_size='x'), 'img_size'),
        (dict(img_size=10**9), 'img_size'),
        (dict(label_dim=8192, label_depth=100), 'billion parameters'),
        (dict(num_groups=8000), 'give a label_dim'),
        (dict(backbone='cait_xxs24_224', dynamic_img_size=True), 'has no dynamic_img_size'),
    ],
)
def test_values_of_a_hostile_config(options, message):
    assert message in messages(**options, device='meta')


def test_backbone_without_checkpointing():
    with pytest.raises(ValueError, match='VGG: gradient checkpointing not supported'):
        create('vgg11', device='meta', dtype=None).set_grad_checkpointing()
