"""Architecture, options, precision, feature extraction and classifier of the models."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from filler import NARROW
from tiny import FAMILIES, PYRAMIDS, TI, assert_close, create, images, width_of

import timm
from timm.data import resolve_data_config
from timm.models import get_model_args
from timm.utils import reparameterize_model

import gkgnet_timm
from gkgnet_timm.benchmark.dense_model import use_dense_graph
from gkgnet_timm.weights.source import MODULES

# --- architecture


@pytest.mark.parametrize(
    'name, count',
    [
        ('gkgnet_224', 33_265_200),
        ('gkgnet_448', 34_017_840),
        ('gkgnet_576', 34_673_200),
        ('pvig_ti_224', 10_714_376),
        ('pvig_s_224', 27_251_912),
        ('pvig_m_224', 49_525_832),
        ('pvig_b_224', 92_980_328),
        ('vig_ti_224', 7_184_744),
        ('vig_s_224', 22_747_752),
        ('vig_b_224', 86_841_832),
    ],
)
def test_parameter_count(name, count):
    model = timm.create_model(name, device='meta')
    assert sum(p.numel() for p in model.parameters()) == count


def test_registered_names():
    widths = ('', 'ti_', 'm_', 'b_')
    assert set(timm.list_models(module='gkgnet')) == {f'gkgnet_{w}{size}' for w in widths for size in (224, 448, 576)}
    assert set(timm.list_models(module='pvig')) == {f'pvig_{w}_224' for w in ('ti', 's', 'm', 'b')}
    assert set(timm.list_models(module='vig')) == {f'vig_{w}_224' for w in ('ti', 's', 'b')}


@pytest.mark.parametrize('name', timm.list_models(module=MODULES))
def test_name_tells_size_and_family(name):
    model = timm.create_model(name, device='meta')
    size = int(name.rpartition('_')[2])
    cfg = model.pretrained_cfg
    family = dict(gkgnet=gkgnet_timm.GkgNet, pvig=gkgnet_timm.PyramidVig, vig=gkgnet_timm.Vig)[name.partition('_')[0]]
    assert type(model) is family
    first, last = (16, 16) if family is gkgnet_timm.Vig else (4, 32)
    assert cfg['input_size'] == (3, size, size) and cfg['pool_size'] == (size // last, size // last)
    assert model.stem.pos_embed.shape[2:] == (size // first, size // first)


def test_published_preprocessing():
    gkgnet = resolve_data_config(model=timm.create_model('gkgnet_576', device='meta'))
    assert gkgnet['mean'] == (0.485, 0.456, 0.406) and gkgnet['std'] == (0.229, 0.224, 0.225)
    assert (gkgnet['crop_mode'], gkgnet['crop_pct'], gkgnet['interpolation']) == ('squash', 1.0, 'bicubic')
    for name in ('pvig_s_224', 'vig_s_224', 'pvig_b_224', 'vig_b_224'):
        vig = resolve_data_config(model=timm.create_model(name, device='meta'))
        assert vig['mean'] == vig['std'] == (0.5, 0.5, 0.5) and vig['interpolation'] == 'bicubic'
        assert vig['crop_pct'] == (0.95 if '_b_' in name else 0.9)


def test_published_label_names():
    names = timm.create_model('gkgnet_576', device='meta').pretrained_cfg['label_names']
    assert len(names) == len(set(names)) == 80


@pytest.mark.parametrize('num_groups', [1, 2])
def test_trunk_is_a_pyramid_vig(num_groups):
    """One group is the plain ViG graph, two make Group KNN in Pyramid ViG."""
    gkgnet = create('gkgnet_ti_224', num_groups=num_groups)
    pvig = create('pvig_ti_224', num_groups=num_groups)
    trunk = {k: v for k, v in gkgnet.state_dict().items() if k.startswith(('stem.', 'stages.'))}
    result = pvig.load_state_dict(trunk, strict=False)
    assert not result.unexpected_keys and all(key.startswith('head.') for key in result.missing_keys)
    x = images(2, 64)
    with torch.no_grad():
        for ours, theirs in zip(gkgnet.forward_stages(x, 4), pvig.forward_stages(x, 4)):
            assert torch.equal(ours, theirs)


def test_default_groups():
    x = images(1, 64)
    with torch.no_grad():
        for name, groups, others in (('gkgnet_ti_224', 2, 1), ('pvig_ti_224', 1, 2), ('vig_ti_224', 1, 2)):
            out = create(name)(x)
            assert torch.equal(out, create(name, num_groups=groups)(x))
            assert not torch.allclose(out, create(name, num_groups=others)(x))


@pytest.mark.parametrize(
    'name, img_size, options',
    [
        ('gkgnet_ti_224', 64, {}),
        ('gkgnet_ti_224', (96, 160), {}),
        ('gkgnet_ti_224', 224, {}),
        ('gkgnet_ti_224', 128, dict(k=5, label_k=3, label_depth=2, num_groups=4)),
        ('gkgnet_ti_224', 128, dict(num_groups=1)),
        ('pvig_ti_224', 64, {}),
        ('pvig_ti_224', (128, 64), dict(num_groups=2)),
        ('pvig_ti_224', 224, {}),
        ('vig_ti_224', 224, {}),
        ('vig_ti_224', (80, 96), dict(num_groups=2, k=5)),
    ],
)
def test_model_against_the_dense_graph(name, img_size, options):
    model = create(name, img_size, dims=TI, **options)
    height, width = model.stem.img_size
    oracle = use_dense_graph(copy.deepcopy(model))
    x = images(2, height, width)
    with torch.no_grad():
        (out, maps), (expected, expected_maps) = (m.forward_intermediates(x, indices=4) for m in (model, oracle))
        assert_close(model.forward_head(out), oracle.forward_head(expected))
        for ours, dense in zip(maps, expected_maps, strict=True):
            assert_close(ours, dense)


def test_dense_graph_trains_alike():
    model = create().train()
    oracle = use_dense_graph(copy.deepcopy(model))
    x = images(3, 64)
    for m in (model, oracle):
        m(x).square().sum().backward()
    expected = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, expected[name].grad, 1e-9)


# --- batches and options


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('height, width', [(64, 64), (96, 64)])
def test_batch_independence(name, height, width):
    model = create(name, dims=TI)
    x = images(3, height, width)
    with torch.no_grad():
        batch = model(x)
        singles = torch.cat([model(x[i : i + 1]) for i in range(3)])
    assert batch.shape == (3, 5)
    assert_close(batch, singles, 1e-9)


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('num_classes', [1, 2])
@pytest.mark.parametrize('in_chans', [1, 4])
def test_few_classes_and_other_channels(name, num_classes, in_chans):
    model = create(name, num_classes=num_classes, in_chans=in_chans)
    x = images(1, 64, channels=in_chans)
    with torch.no_grad():
        out = model(x)
        assert out.shape == (1, num_classes) and out.isfinite().all()
        x[:, -1] += 1  # the last channel is looked at
        assert not torch.allclose(model(x), out)


def test_a_class_does_not_depend_on_the_others():
    """Label nodes look at patches only, so that each class can be scored alone."""
    model = create(num_classes=5)
    single = create(num_classes=1)
    state_dict = model.state_dict()
    for name in ('label_embed.weight', 'head_label.weight', 'head_label.bias', 'head_patch.weight', 'head_patch.bias'):
        state_dict[name] = state_dict[name][3:4]
    single.load_state_dict(state_dict)
    x = images(2, 64)
    with torch.no_grad():
        assert_close(single(x), model(x)[:, 3:4])


def test_logits_by_definition():
    """<W1_c, node_c> + b1_c + <W2_c, g> + b2_c."""
    model = create()
    x = images(2, 64)
    with torch.no_grad():
        graph = model.forward_graph(x)
        pooled = graph.patch_maps[-1].mean((2, 3))
        label_scores = model.head_label(graph.label_nodes[-1]).diagonal(dim1=1, dim2=2)
        assert_close(graph.logits, label_scores + model.head_patch(pooled))


def test_graph_options():
    """Neighbours within the trunk (k) and of label nodes (label_k), groups, label blocks of the last stage."""
    model = create(k=3, label_k=2, num_groups=4, label_depth=3)
    trunk = []
    for block in model.stages[0].blocks:
        block.register_forward_hook(lambda module, args, output: trunk.append(output[1].shape))
    with torch.no_grad():
        graph = model.forward_graph(images(2, 64))
    assert trunk == [(2, 4, 256, 3)] * 2
    assert [len(blocks) for blocks in graph.neighbors] == [1, 1, 1, 3]
    assert all(index.shape == (2, 4, 5, 2) for blocks in graph.neighbors for index in blocks)


def test_dilation_by_depth():
    """min(j // 4 + 1, 49 // k) for block j of the trunk, never below 1."""
    for k, expected in ((9, [1] * 4 + [2] * 4 + [3] * 4), (20, [1] * 4 + [2] * 8), (60, [1] * 12)):
        model = timm.create_model('gkgnet_ti_224', device='meta', k=k)
        assert [b.grapher.graph_conv.dilation for s in model.stages for b in s.blocks] == expected


def test_neighbors_of_a_vig():
    """int(linspace(k, 2 k, blocks)[i]) for block i, and min(i // 4 + 1, 196 // (2 k)) as their dilation."""
    expected = {
        12: [9, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 18],
        16: [9, 9, 10, 10, 11, 12, 12, 13, 13, 14, 15, 15, 16, 16, 17, 18],
        1: [9],
    }
    for depth, neighbors in expected.items():
        model = timm.create_model('vig_ti_224', device='meta', depth=depth)
        convs = [block.grapher.graph_conv for block in model.blocks]
        assert [conv.k for conv in convs] == neighbors
        assert [conv.dilation for conv in convs] == [i // 4 + 1 for i in range(depth)]
    for k, dilation in ((40, 2), (100, 1)):
        model = timm.create_model('vig_ti_224', device='meta', k=k)
        assert model.blocks[-1].grapher.graph_conv.k == 2 * k
        assert model.blocks[-1].grapher.graph_conv.dilation == dilation


def test_neighbors_of_a_vig_are_the_nearest_of_all_others():
    model = create('vig_ti_224', 96)
    chosen, nodes = [], []
    model.blocks[-1].register_forward_hook(lambda module, args, output: chosen.append(output[1]))
    model.blocks[-1].grapher.fc1.register_forward_hook(lambda module, args, output: nodes.append(output))
    with torch.no_grad():
        model(images(1, 96))
    x = F.normalize(nodes[0].flatten(2)[0], dim=0)  # (C, N)
    assert chosen[0].shape == (1, 1, 36, 18)
    assert torch.equal(chosen[0][0, 0], (x.t() @ x).topk(35).indices[:, :35:2]), '36 nodes leave a dilation of 2'


# --- precision and layouts


@pytest.mark.parametrize('name', FAMILIES)
def test_autocast_trains(name):
    model = create(name, dtype=torch.float32).train()
    x = images(3, 64).float()
    with torch.autocast('cpu', torch.bfloat16):
        out = model(x)
        loss = out.float().square().sum()
    loss.backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('name', FAMILIES)
def test_bfloat16_model(name):
    model = create(name, dtype=torch.float32)
    x = images(4, 64).float()
    with torch.no_grad():
        expected = model(x)
        out = model.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out - expected).abs().max() < 0.2 * expected.std()


@pytest.mark.parametrize('name', FAMILIES)
def test_channels_last(name):
    model = create(name)
    x = images(2, 64)
    with torch.no_grad():
        expected = model(x)
        out = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert_close(out, expected)


# --- features


def test_features_are_label_nodes_then_patches():
    model = create()
    with torch.no_grad():
        features = model.forward_features(images(2, 96, 64))
        graph = model.forward_graph(images(2, 96, 64))
    assert features.shape == (2, 5 + 3 * 2, NARROW[-1])
    assert model.num_prefix_tokens == 5 and model.num_features == NARROW[-1]
    assert torch.equal(features[:, :5], graph.label_nodes[-1])
    assert torch.equal(features[:, 5:], graph.patch_maps[-1].flatten(2).transpose(1, 2))


@pytest.mark.parametrize('global_pool', ['avg', 'max', 'avgmax'])
def test_pre_logits_are_pooled_patches(global_pool):
    model = create(global_pool=global_pool)
    headless = create(num_classes=0, global_pool=global_pool)
    x = images(2, 64)
    with torch.no_grad():
        patches = model.forward_stages(x, 4)[-1]
        average, largest = patches.mean((2, 3)), patches.amax((2, 3))
        expected = {'avg': average, 'max': largest, 'avgmax': (average + largest) / 2}[global_pool]
        assert_close(model.forward_head(model.forward_features(x), pre_logits=True), expected, 1e-12)
        assert_close(headless(x), expected, 1e-12)
    assert headless.head_hidden_size == NARROW[-1] and headless.num_prefix_tokens == 0


def test_unpooled_patches():
    model = create(num_classes=0, global_pool='')
    with torch.no_grad():
        assert model(images(2, 96, 64)).shape == (2, 6, NARROW[-1])


@pytest.mark.parametrize('name, shape', [('pvig_ti_224', (2, NARROW[-1], 2, 2)), ('vig_ti_224', (2, 32, 4, 4))])
def test_hidden_layer_of_a_vig(name, shape):
    model = create(name)
    headless = create(name, num_classes=0)
    x = images(2, 64)
    with torch.no_grad():
        features = model.forward_features(x)
        hidden = model.forward_head(features, pre_logits=True)
        assert features.shape == shape
        assert hidden.shape == (2, 1024) and model.head_hidden_size == 1024
        assert torch.equal(headless(x), hidden)
        assert torch.equal(model.get_classifier()(hidden), model(x))


@pytest.mark.parametrize('name', FAMILIES)
def test_forward_is_features_then_head(name):
    model = create(name)
    x = images(2, 64)
    with torch.no_grad():
        assert torch.equal(model(x), model.forward_head(model.forward_features(x)))


def test_forward_graph():
    model = create(num_classes=7, label_k=9)
    x = images(3, 128, 96)
    with torch.no_grad():
        graph = model.forward_graph(x)
        assert torch.equal(graph.logits, model(x))
    for stage in range(4):
        height, width = 128 // 2 ** (stage + 2), 96 // 2 ** (stage + 2)
        (index,) = graph.neighbors[stage]
        assert index.shape == (3, 2, 7, 9)
        assert index.min() >= 0 and index.max() < height * width
        assert all(len(set(row.tolist())) == 9 for row in index.flatten(0, 2)), 'no patch is chosen twice'
        assert graph.label_nodes[stage].shape == (3, 7, NARROW[stage])
        assert graph.patch_maps[stage].shape == (3, NARROW[stage], height, width)


def test_forward_graph_needs_labels():
    with pytest.raises(ValueError, match='num_classes=0'):
        create(num_classes=0).forward_graph(images(1, 64))


def test_label_nodes_choose_patches_of_their_stage():
    """The chosen patches are the nearest of the map, in the space of the label block."""
    model = create(label_k=3)
    queries = []
    model.label_stages[1].blocks[0].grapher.fc1.register_forward_hook(lambda module, args, out: queries.append(out))
    with torch.no_grad():
        graph = model.forward_graph(images(2, 64))
    nodes = queries[0].flatten(2).unflatten(1, (2, -1))  # (B, G, C / G, L)
    patches = graph.patch_maps[1].flatten(2).unflatten(1, (2, -1))  # (B, G, C / G, M)
    similarity = torch.einsum('bgcl,bgcm->bglm', F.normalize(nodes, dim=2), F.normalize(patches, dim=2))
    assert torch.equal(graph.neighbors[1][0], similarity.topk(3).indices)


@pytest.mark.parametrize('name', PYRAMIDS)
def test_intermediates(name):
    model = create(name)
    x = images(2, 96, 64)
    with torch.no_grad():
        maps = model.forward_stages(x, 4)
        final, taken = model.forward_intermediates(x, indices=[0, 2])
        assert torch.equal(final, model.forward_features(x))
        last_two = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert [m.shape for m in maps] == [(2, c, 96 // s, 64 // s) for c, s in zip(NARROW, (4, 8, 16, 32))]
    assert all(torch.equal(a, b) for a, b in zip(taken, [maps[0], maps[2]], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(last_two, maps[2:], strict=True))


def test_intermediates_of_a_vig():
    """A map after every block."""
    model = create('vig_ti_224')
    x = images(2, 96, 80)
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    with torch.no_grad():
        final, taken = model.forward_intermediates(x, indices=[0, 7])
        assert torch.equal(final, outputs[-1]) and len(outputs) == 12
        assert all(torch.equal(a, b) for a, b in zip(taken, [outputs[0], outputs[7]], strict=True))
        assert taken[0].shape == (2, 32, 6, 5)
        (early,) = model.forward_intermediates(x, indices=[2], stop_early=True, intermediates_only=True)
        assert torch.equal(early, outputs[2]) and len(outputs) == 12 + 3
        assert len(model.forward_intermediates(x, intermediates_only=True)) == 12


def test_features_only_of_a_vig():
    """The last blocks unless others are asked for, and nothing after the last one taken."""
    x = images(1, 96, 160)
    model = create('vig_ti_224')
    for out_indices, taken in ((None, [9, 10, 11]), ((2, 5), [2, 5]), (2, [10, 11])):
        kwargs = {} if out_indices is None else dict(out_indices=out_indices)
        backbone = timm.create_model(
            'vig_ti_224', features_only=True, img_size=64, dtype=torch.float64, **width_of('vig_ti_224'), **kwargs
        ).eval()
        assert backbone.feature_info.channels() == [32] * len(taken)
        assert backbone.feature_info.reduction() == [16] * len(taken)
        assert len(backbone.model.blocks) == taken[-1] + 1
        assert not backbone.model.load_state_dict(model.state_dict(), strict=False).missing_keys
        with torch.no_grad():
            maps, expected = backbone(x), model.forward_intermediates(x, indices=taken, intermediates_only=True)
        assert [tuple(m.shape[2:]) for m in maps] == [(6, 10)] * len(taken)
        assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize('name, kept', [('gkgnet_ti_224', 2), ('pvig_ti_224', 2), ('vig_ti_224', 5)])
def test_pruned_model_ends_with_a_map(name, kept):
    model = create(name)
    x = images(1, 64)
    with torch.no_grad():
        (expected,) = model.forward_intermediates(x, indices=[kept - 1], intermediates_only=True)
        assert model.prune_intermediate_layers([0, kept - 1]) == [0, kept - 1]
        assert len(model.layers_with_maps()) == kept and model.num_features == expected.shape[1]
        out = model(x)
        assert torch.equal(out.transpose(1, 2).view_as(expected) if out.ndim == 3 else out, expected)
    whole = create(name)
    names = set(whole.state_dict())
    last = len(whole.layers_with_maps()) - 1
    assert whole.prune_intermediate_layers([last], prune_head=False) == [last]
    assert set(whole.state_dict()) == names, 'the head still fits'


def test_maps_alone_leave_out_labels_and_later_stages():
    model = create()
    ran = []
    for name, module in model.named_modules():
        if name.startswith(('stages.', 'label_stages.')) and name.count('.') == 1:
            module.register_forward_hook(lambda module, args, output, name=name: ran.append(name))
    with torch.no_grad():
        model.forward_intermediates(images(1, 64), indices=[1], stop_early=True, intermediates_only=True)
    assert ran == ['stages.0', 'stages.1']


@pytest.mark.parametrize('name', PYRAMIDS)
def test_features_only(name):
    backbone = timm.create_model(name, features_only=True, img_size=64, dims=NARROW, dtype=torch.float64).eval()
    assert backbone.feature_info.channels() == list(NARROW)
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    assert not [key for key, _ in backbone.named_parameters() if 'label' in key or 'head' in key]
    model = create(name)
    backbone.model.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(('stem.', 'stages.'))})
    x = images(2, 96, 160)
    with torch.no_grad():
        maps = backbone(x)
        assert [tuple(m.shape[2:]) for m in maps] == [(96 // s, 160 // s) for s in (4, 8, 16, 32)]
        assert all(torch.equal(a, b) for a, b in zip(maps, model.forward_stages(x, 4), strict=True))


# --- another classifier


def parts(model, prefix):
    return {key: value.clone() for key, value in model.state_dict().items() if key.startswith(prefix)}


def assert_equal_parts(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_reset_keeps_label_blocks():
    model = create()
    blocks, trunk = parts(model, 'label_stages.'), parts(model, ('stem.', 'stages.'))
    model.reset_classifier(7)
    assert_equal_parts(parts(model, 'label_stages.'), blocks)
    assert_equal_parts(parts(model, ('stem.', 'stages.')), trunk)
    assert model.num_classes == model.num_prefix_tokens == 7
    assert {k: tuple(v.shape) for k, v in parts(model, ('label_embed', 'head_')).items()} == {
        'label_embed.weight': (7, NARROW[0]),
        'head_label.weight': (7, NARROW[-1]),
        'head_label.bias': (7,),
        'head_patch.weight': (7, NARROW[-1]),
        'head_patch.bias': (7,),
    }
    with torch.no_grad():
        assert model(images(2, 64)).shape == (2, 7)


def test_reset_to_none_removes_the_label_branch_and_back_makes_a_fresh_one():
    model = create()
    x = images(2, 64)
    names = set(model.state_dict())
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(0)
        assert all(k.startswith(('stem.', 'stages.')) for k in model.state_dict())
        assert model.num_classes == model.num_prefix_tokens == 0
        assert torch.equal(model(x), pooled)
        model.reset_classifier(5)
        assert set(model.state_dict()) == names
        assert model(x).shape == (2, 5)
    assert 0 < model.head_label.weight.std() < 0.02 and (model.head_label.bias == 0).all()
    weight = model.label_stages[3].blocks[0].ffn.fc1.conv.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / NARROW[-1]), rel=0.05)


@pytest.mark.parametrize('name', FAMILIES)
def test_reset_keeps_type_mode_and_pooling(name):
    model = create(name, global_pool='max')
    for num_classes in (0, 7):
        model.reset_classifier(num_classes)
        assert not any(module.training for module in model.modules())
        assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert get_model_args(model)['num_classes'] == 7
    assert get_model_args(model)['global_pool'] == 'max'
    model.reset_classifier(7, 'avg')
    assert get_model_args(model)['global_pool'] == 'avg'


@pytest.mark.parametrize('name', FAMILIES)
def test_reset_changes_the_pooling(name):
    """In Pyramid ViG and ViG the hidden layer stands behind the pooling."""
    model = create(name)
    x = images(2, 64)
    with torch.no_grad():
        model.reset_classifier(0, 'max')
        largest = model(x)
        assert torch.equal(largest, create(name, num_classes=0, global_pool='max')(x))
        assert not torch.allclose(largest, create(name, num_classes=0)(x))


def test_reset_keeps_checkpointing():
    model = create()
    model.set_grad_checkpointing()
    model.reset_classifier(0)
    model.reset_classifier(3)
    assert [stage.grad_checkpointing for stage in model.label_stages] == [True] * 4


def test_get_classifier():
    model = create()
    assert model.get_classifier() == (model.head_label, model.head_patch, model.label_embed)
    model.reset_classifier(0)
    assert all(isinstance(module, nn.Identity) for module in model.get_classifier())
    for name in ('pvig_ti_224', 'vig_ti_224'):
        vig = create(name)
        assert vig.get_classifier() is vig.head.fc


@pytest.mark.parametrize('name', FAMILIES)
def test_classifier_names_of_the_cfg(name):
    """timm finds what belongs to the classes by these names."""
    model = create(name)
    names = model.pretrained_cfg['classifier']
    classifier = model.get_classifier()
    if isinstance(names, str):
        names, classifier = (names,), (classifier,)
    assert tuple(model.get_submodule(n) for n in names) == classifier
    assert all(module.weight.shape[0] == 5 for module in classifier)


@pytest.mark.parametrize('name', FAMILIES)
def test_reparameterized_model_is_the_same(name):
    model = create(name, **(dict(depth=3) if name.startswith('vig') else dict(depths=(1, 1, 2, 1))))
    folded = reparameterize_model(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()), 'a copy is folded'
    x = images(2, 64)
    assert_close(folded(x), model(x))
    assert_close(torch.jit.script(reparameterize_model(folded))(x), model(x))
    with pytest.raises(ValueError, match='call eval'):
        reparameterize_model(model.train())
