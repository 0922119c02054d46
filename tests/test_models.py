"""The models as timm citizens: sizes, precision, training, feature extraction, and what timm's own suite leaves open.

Most tests run a trunk of a sixth of the width of Ti, filled with weights by name, in float64.
"""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from filler import NARROW, fill_model, image

import timm
from timm.data import resolve_data_config
from timm.layers import DropPath, create_feature_extractor, get_graph_node_names
from timm.models import get_model_args, get_model_input_config, group_parameters
from timm.optim import param_groups_weight_decay

import gkgnet_timm
from gkgnet_timm.dense import use_dense_graph
from gkgnet_timm.layers import RelativePosition
from gkgnet_timm.models.gkgnet import LabelStage
from gkgnet_timm.position import relative_position_tables

TI = (48, 96, 240, 384)
FAMILIES = ['gkgnet_ti_224', 'pvig_ti_224']


def create(name='gkgnet_ti_224', img_size=64, num_classes=5, dims=NARROW, dtype=torch.float64, **kwargs):
    model = timm.create_model(name, img_size=img_size, num_classes=num_classes, dims=dims, dtype=dtype, **kwargs)
    return fill_model(model).eval()


def images(batch, height, width=None, channels=3, seed=0):
    return image((batch, channels, height, width or height), seed).double()


def assert_close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def position_modules(model):
    return [module for module in model.modules() if isinstance(module, RelativePosition)]


def assert_tables_fresh(model):
    """Every table is exactly what would be computed for its grid and type now."""
    tables = position_modules(model)
    assert tables
    for module in tables:
        row_table, col_table = relative_position_tables(
            *module.grid_size, module.dim, module.reduction, dtype=module.row_table.dtype
        )
        assert torch.equal(module.row_table, row_table)
        assert torch.equal(module.col_table, col_table)


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
    ],
)
def test_parameter_count(name, count):
    model = timm.create_model(name, device='meta')
    assert sum(p.numel() for p in model.parameters()) == count


def test_registered_names():
    widths = ('', 'ti_', 'm_', 'b_')
    assert set(timm.list_models('gkgnet*')) == {f'gkgnet_{w}{size}' for w in widths for size in (224, 448, 576)}
    assert set(timm.list_models('pvig*')) == {f'pvig_{w}_224' for w in ('ti', 's', 'm', 'b')}


@pytest.mark.parametrize('name', timm.list_models('gkgnet*') + timm.list_models('pvig*'))
def test_name_tells_size_and_family(name):
    model = timm.create_model(name, device='meta')
    size = int(name.rpartition('_')[2])
    cfg = model.pretrained_cfg
    assert isinstance(model, gkgnet_timm.GkgNet if name.startswith('gkgnet') else gkgnet_timm.PyramidVig)
    assert cfg['input_size'] == (3, size, size) and cfg['pool_size'] == (size // 32, size // 32)
    assert model.stem.pos_embed.shape[2:] == (size // 4, size // 4)


def test_published_preprocessing():
    gkgnet = resolve_data_config(model=timm.create_model('gkgnet_576', device='meta'))
    assert gkgnet['mean'] == (0.485, 0.456, 0.406) and gkgnet['std'] == (0.229, 0.224, 0.225)
    assert (gkgnet['crop_mode'], gkgnet['crop_pct'], gkgnet['interpolation']) == ('squash', 1.0, 'bicubic')
    pvig = resolve_data_config(model=timm.create_model('pvig_s_224', device='meta'))
    assert pvig['mean'] == pvig['std'] == (0.5, 0.5, 0.5)


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
        for name, groups, others in (('gkgnet_ti_224', 2, 1), ('pvig_ti_224', 1, 2)):
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
    ],
)
def test_model_against_the_dense_graph(name, img_size, options):
    model = create(name, img_size, dims=TI, **options)
    height, width = model.stem.img_size
    oracle = use_dense_graph(copy.deepcopy(model))
    x = images(2, height, width)
    with torch.no_grad():
        assert_close(model(x), oracle(x))
        for ours, dense in zip(model.forward_stages(x, 4), oracle.forward_stages(x, 4)):
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


# --- input sizes


def resampled(state_dict, height, width):
    embed = F.interpolate(state_dict['stem.pos_embed'], (height // 4, width // 4), mode='bicubic', antialias=True)
    return {**state_dict, 'stem.pos_embed': embed}


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('height, width', [(96, 64), (32, 96), (128, 128)])
def test_other_size_at_call_time(name, height, width):
    model = create(name)
    expected = create(name, (height, width))
    expected.load_state_dict(resampled(model.state_dict(), height, width))
    x = images(2, height, width)
    own = images(2, 64)
    with torch.no_grad():
        before = model(own)
        assert_close(model(x), expected(x), 1e-12)
        assert torch.equal(model(own), before), 'another size leaves no trace'


@pytest.mark.parametrize('name', FAMILIES)
def test_set_input_size(name):
    model = create(name)
    expected = create(name, (96, 64))
    expected.load_state_dict(resampled(model.state_dict(), 96, 64))
    model.set_input_size((96, 64))
    x = images(2, 96, 64)
    with torch.no_grad():
        assert_close(model(x), expected(x), 1e-12)
    assert_tables_fresh(model)
    assert model.state_dict()['stem.pos_embed'].shape == (1, NARROW[0], 24, 16)
    assert model.stem.pos_embed.requires_grad


def test_set_input_size_keeps_a_frozen_embedding_frozen():
    model = create()
    model.stem.pos_embed.requires_grad_(False)
    model.set_input_size(96)
    assert not model.stem.pos_embed.requires_grad


@pytest.mark.parametrize('name', FAMILIES)
def test_resized_model_is_rebuilt_from_its_arguments(name):
    model = create(name)
    model.set_input_size((96, 64))
    assert get_model_input_config(model)['input_size'] == (3, 96, 64)
    args = get_model_args(model)
    assert args['img_size'] == (96, 64)
    rebuilt = timm.create_model(name, dtype=torch.float64, **args).eval()
    rebuilt.load_state_dict(model.state_dict())
    x = images(1, 96, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(x), model(x))


@pytest.mark.parametrize('name', FAMILIES)
def test_smallest_images(name):
    """The last stage has a single node, which is its own and only neighbour."""
    x = images(2, 32)
    with torch.no_grad():
        out = create(name, 32)(x)
        assert out.shape == (2, 5) and out.isfinite().all()
        assert create(name, 224)(x).isfinite().all()


def test_position_embedding_trains_at_any_size():
    model = create().train()
    model(images(2, 96, 64)).square().sum().backward()
    grad = model.stem.pos_embed.grad
    assert grad.shape == (1, NARROW[0], 16, 16) and (grad != 0).any()


@pytest.mark.parametrize('name', FAMILIES)
def test_padding_is_zeros_at_bottom_and_right(name):
    model = create(name, dynamic_img_pad=True)
    x = images(2, 50, 70)
    with torch.no_grad():
        assert torch.equal(model(x), model(F.pad(x, (0, 96 - 70, 0, 64 - 50))))
        assert model(images(1, 20, 10)).shape == (1, 5)


def test_padding_to_a_fixed_size():
    model = create(img_size=50, dynamic_img_size=False, dynamic_img_pad=True)
    assert model.stem.img_size == (64, 64)
    with torch.no_grad():
        assert model(images(1, 60, 40)).shape == (1, 5)
        with pytest.raises(ValueError, match='70 x 64 is not the 64 x 64'):
            model(images(1, 70, 64))


def test_fixed_size():
    model = create(dynamic_img_size=False)
    with torch.no_grad():
        assert model(images(1, 64)).shape == (1, 5)
        with pytest.raises(ValueError, match='96 x 64 is not the 64 x 64'):
            model(images(1, 96, 64))
        model.set_input_size((96, 64))
        assert model(images(1, 96, 64)).shape == (1, 5)
    assert get_model_input_config(model)['fixed_input_size']


# --- bad input


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(img_size=100), ['100', '96 or 128']),
        (dict(img_size=(64, 20)), ['20', ' 32']),
        (dict(img_size=0), ['0']),
        (dict(img_size=(64, 64, 64)), ['(64, 64, 64)']),
        (dict(num_classes=-1), ['num_classes', '-1']),
        (dict(num_classes=2.5), ['num_classes', '2.5']),
        (dict(in_chans=0), ['in_chans', '0']),
        (dict(k=0), ['k must', '0']),
        (dict(k=-3), ['k must', '-3']),
        (dict(num_groups=0), ['num_groups', '0']),
        (dict(num_groups=7), ['num_groups=7', '(48, 96, 240, 384)']),
        (dict(num_groups=32), ['num_groups=32', '(48, 96, 240, 384)']),
        (dict(global_pool='median'), ['global_pool', 'median', 'avgmax']),
        (dict(global_pool=''), ['global_pool', 'num_classes=0']),
    ],
)
@pytest.mark.parametrize('name', FAMILIES)
def test_bad_arguments(name, kwargs, words):
    with pytest.raises(ValueError) as error:
        timm.create_model(name, device='meta', **kwargs)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('kwargs', [dict(label_k=0), dict(label_k=1.5), dict(label_depth=0)])
def test_bad_label_arguments(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f'{name} must .*{value}'):
        timm.create_model('gkgnet_ti_224', device='meta', **kwargs)


@pytest.mark.parametrize('name', FAMILIES)
def test_unknown_argument(name):
    with pytest.raises(TypeError, match='num_neighbors'):
        timm.create_model(name, device='meta', num_neighbors=9)


@pytest.mark.parametrize(
    'shape, words',
    [
        ((3, 64, 64), ['3 dimensions']),
        ((1, 1, 3, 64, 64), ['5 dimensions']),
        ((1, 4, 64, 64), ['3 channels', 'got 4']),
        ((1, 3, 100, 64), ['100 x 64', '96 or 128']),
        ((1, 3, 64, 100), ['64 x 100', '96 or 128']),
        ((1, 3, 20, 64), ['20 x 64', '32']),
    ],
)
@pytest.mark.parametrize('name', FAMILIES)
def test_bad_images(name, shape, words):
    model = timm.create_model(name, device='meta')
    with pytest.raises(ValueError) as error:
        model(torch.empty(shape, device='meta'))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('name', FAMILIES)
def test_bad_resize_changes_nothing(name):
    model = create(name)
    with pytest.raises(ValueError, match='96 or 128'):
        model.set_input_size(100)
    assert model.stem.img_size == (64, 64)
    with torch.no_grad():
        assert torch.equal(model(images(1, 64)), create(name)(images(1, 64)))


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('args', [(-1,), (5, ''), (5, 'median')])
def test_bad_reset_changes_nothing(name, args):
    model = create(name)
    with pytest.raises(ValueError):
        model.reset_classifier(*args)
    with torch.no_grad():
        assert torch.equal(model(images(1, 64)), create(name)(images(1, 64)))


# --- relative position tables


@pytest.mark.parametrize('name', FAMILIES)
def test_tables_are_no_weights(name):
    model = create(name)
    tables = {key for key, _ in model.named_buffers() if key.endswith(('row_table', 'col_table'))}
    assert len(tables) == 2 * len(model.stages), 'one pair a stage, shared by its blocks'
    assert not tables & set(model.state_dict())
    assert not tables & {key for key, _ in model.named_parameters()}


def test_tables_are_small():
    """The matrix of one stage-1 block at 576 px has 27 million entries."""
    tables = position_modules(timm.create_model('gkgnet_576', device='meta'))
    assert tables[0].row_table.shape == tables[0].col_table.shape == (144, 1296)
    assert sum(m.row_table.numel() + m.col_table.numel() for m in tables) < 1_000_000


def test_tables_of_a_double_model_are_float64():
    for model in (create(), create(dtype=torch.float32).double()):
        assert all(m.row_table.dtype == m.col_table.dtype == torch.float64 for m in position_modules(model))
        assert_tables_fresh(model)


def test_a_model_made_double_is_exact():
    x = images(2, 64)
    with torch.no_grad():
        assert torch.equal(create(dtype=torch.float32).double()(x), create()(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_tables_of_a_half_precision_model_are_float32(dtype):
    for model in (create(dtype=dtype), create(dtype=torch.float32).to(dtype)):
        assert model.stem.pos_embed.dtype == dtype
        assert all(m.row_table.dtype == m.col_table.dtype == torch.float32 for m in position_modules(model))
        assert_tables_fresh(model)


def test_tables_survive_half_precision():
    assert_tables_fresh(create(dtype=torch.float32).bfloat16().float())
    assert_tables_fresh(create().half().double())


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('by_argument', [True, False])
def test_meta_device(name, by_argument):
    if by_argument:
        model = timm.create_model(name, img_size=64, dims=NARROW, num_classes=5, device='meta')
    else:
        with torch.device('meta'):
            model = timm.create_model(name, img_size=64, dims=NARROW, num_classes=5)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    model.to_empty(device='cpu')
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(math.nan if tensor.is_floating_point() else -1)
    model.init_weights()
    assert_tables_fresh(model)
    assert all(tensor.isfinite().all() for tensor in (*model.parameters(), *model.buffers()))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.num_batches_tracked == 0
    assert model.train()(images(2, 64).float()).isfinite().all()


def test_tables_of_other_sizes_are_cached():
    tables = create().stages[0].relative_position
    x = torch.empty(1, NARROW[0], 24, 16, dtype=torch.float64)
    row_table, col_table = tables(x)
    expected = relative_position_tables(24, 16, NARROW[0], 4, dtype=torch.float64)
    assert torch.equal(row_table, expected[0]) and torch.equal(col_table, expected[1])
    assert tables(x)[0] is row_table
    assert tables(torch.empty(1, NARROW[0], 16, 16))[0] is tables.row_table


def test_cached_tables_follow_the_type():
    tables = create().stages[0].relative_position
    x = torch.empty(1, NARROW[0], 24, 16)
    tables(x)
    tables.float()
    assert tables(x)[0].dtype == torch.float32
    tables.double()
    expected = relative_position_tables(24, 16, NARROW[0], 4, dtype=torch.float64)
    assert torch.equal(tables(x)[0], expected[0])


def test_cache_is_bounded():
    tables = create().stages[0].relative_position
    sizes = range(8, 8 + 8 * 20, 8)
    made = {height: tables(torch.empty(1, NARROW[0], height, 8))[0] for height in sizes}
    assert len(tables._cached) == tables.MAX_CACHED
    assert tables(torch.empty(1, NARROW[0], sizes[-1], 8))[0] is made[sizes[-1]], 'the latest are kept'


def test_copies_are_independent():
    """A model is copied for its moving average, also after images of another size."""
    model = create()
    x = images(1, 96)
    with torch.no_grad():
        out = model(x)
        twin = copy.deepcopy(model)
        model.set_input_size(96)
        model.bfloat16()
        assert torch.equal(twin(x), out)


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


def test_pyramid_vig_hidden_layer():
    model = create('pvig_ti_224')
    headless = create('pvig_ti_224', num_classes=0)
    x = images(2, 64)
    with torch.no_grad():
        features = model.forward_features(x)
        hidden = model.forward_head(features, pre_logits=True)
        assert features.shape == (2, NARROW[-1], 2, 2)
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


@pytest.mark.parametrize('name', FAMILIES)
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


def test_maps_alone_leave_out_labels_and_later_stages():
    model = create()
    ran = []
    for name, module in model.named_modules():
        if name.startswith(('stages.', 'label_stages.')) and name.count('.') == 1:
            module.register_forward_hook(lambda module, args, output, name=name: ran.append(name))
    with torch.no_grad():
        model.forward_intermediates(images(1, 64), indices=[1], stop_early=True, intermediates_only=True)
    assert ran == ['stages.0', 'stages.1']


@pytest.mark.parametrize('name', FAMILIES)
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
    """In a Pyramid ViG the hidden layer stands behind the pooling."""
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
    pvig = create('pvig_ti_224')
    assert pvig.get_classifier() is pvig.head.fc


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
@pytest.mark.parametrize('height, width', [(64, 64), (64, 96), (32, 64), (64, 32)])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_single_image_trains_like_a_batch_of_copies(name, height, width, memory_format):
    """Statistics over the batch, and so output and mean gradient, are the same.

    Strides of a single image fit more than one memory format, and on the CPU the backward passes of BatchNorm and of
    grouped convolutions go wrong where one tensor is taken for another format than the next.
    """
    # the hidden layer of a Pyramid ViG cannot be normalised over one pooled image
    unpooled = dict(num_classes=0, global_pool='') if name.startswith('pvig') else {}
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
@pytest.mark.parametrize('name', FAMILIES)
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


@pytest.mark.parametrize('name', ['gkgnet_ti_224', 'gkgnet_m_224', 'pvig_b_224'])
def test_drop_path_rates(name):
    model = timm.create_model(name, drop_path_rate=0.1, device='meta')
    blocks = [block for stage in model.stages for block in stage.blocks]
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


@pytest.mark.parametrize('name', ['gkgnet_ti_224', 'pvig_ti_224'])
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
    model = create(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    x = images(2, 64)
    with torch.no_grad():
        assert_close(compiled(x), model(x))
