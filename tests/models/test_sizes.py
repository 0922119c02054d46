"""Input sizes, the relative position tables that depend on them, and input that is refused."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from filler import NARROW, NARROW_VIG
from tiny import FAMILIES, PYRAMIDS, assert_close, assert_tables_fresh, create, images, position_modules, width_of

import timm
from timm.models import get_model_args, get_model_input_config

from gkgnet_timm import Vig
from gkgnet_timm.layers.position import relative_position_tables

# --- input sizes


def resampled(model, height, width):
    stride = 16 if isinstance(model, Vig) else 4
    state_dict = model.state_dict()
    size = (height // stride, width // stride)
    embed = F.interpolate(state_dict['stem.pos_embed'], size, mode='bicubic', antialias=True)
    return {**state_dict, 'stem.pos_embed': embed}


@pytest.mark.parametrize(
    'name, height, width',
    [*itertools.product(FAMILIES, [96], [64]), *itertools.product(FAMILIES, [32], [96])]
    + [*itertools.product(PYRAMIDS, [128], [128]), ('vig_ti_224', 80, 48)],
)
def test_other_size_at_call_time(name, height, width):
    model = create(name)
    expected = create(name, (height, width))
    expected.load_state_dict(resampled(model, height, width))
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
    expected.load_state_dict(resampled(model, 96, 64))
    model.set_input_size((96, 64))
    x = images(2, 96, 64)
    with torch.no_grad():
        assert_close(model(x), expected(x), 1e-12)
    assert_tables_fresh(model)
    shape = (1, NARROW_VIG, 6, 4) if name.startswith('vig') else (1, NARROW[0], 24, 16)
    assert model.state_dict()['stem.pos_embed'].shape == shape
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
    """The last map has a single node, which is its own and only neighbour."""
    size = 16 if name.startswith('vig') else 32
    x = images(2, size)
    with torch.no_grad():
        out = create(name, size)(x)
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
        right = 80 if name.startswith('vig') else 96
        assert torch.equal(model(x), model(F.pad(x, (0, right - 70, 0, 64 - 50))))
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
        (dict(img_size=(64, 20)), ['20', ' 32']),
        (dict(img_size=0), ['0']),
        (dict(img_size=(64, 64, 64)), ['(64, 64, 64)']),
        (dict(num_classes=-1), ['num_classes', '-1']),
        (dict(num_classes=2.5), ['num_classes', '2.5']),
        (dict(in_chans=0), ['in_chans', '0']),
        (dict(k=0), ['k must', '0']),
        (dict(k=-3), ['k must', '-3']),
        (dict(num_groups=0), ['num_groups', '0']),
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


@pytest.mark.parametrize(
    'name, kwargs, words',
    [
        *((name, dict(img_size=100), ['100', '96 or 128']) for name in PYRAMIDS),
        ('vig_ti_224', dict(img_size=100), ['100', 'multiple of 16', '96 or 112']),
        *(
            (name, dict(num_groups=groups), [f'num_groups={groups}', '(48, 96, 240, 384)'])
            for name in PYRAMIDS
            for groups in (7, 32)
        ),
        ('vig_ti_224', dict(num_groups=7), ['num_groups=7', '(192,)']),
        ('vig_ti_224', dict(embed_dim=36), ['multiples of 8', '(36,)']),
        ('vig_ti_224', dict(embed_dim=0), ['embed_dim', '0']),
        ('vig_ti_224', dict(depth=0), ['depth', '0']),
        ('vig_ti_224', dict(depth=101), ['depth must be at most 100', '101']),
        ('vig_ti_224', dict(depth=100, embed_dim=8192), ['billion parameters']),
    ],
)
def test_bad_sizes_and_channels(name, kwargs, words):
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
        ((1, 3, 100, 64), ['100 x 64', '96 or 1']),
        ((1, 3, 64, 100), ['64 x 100', '96 or 1']),
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
    with pytest.raises(ValueError, match='96 or 112' if name.startswith('vig') else '96 or 128'):
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


@pytest.mark.parametrize('name', PYRAMIDS)
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
        model = timm.create_model(name, img_size=64, num_classes=5, **width_of(name), device='meta')
    else:
        with torch.device('meta'):
            model = timm.create_model(name, img_size=64, num_classes=5, **width_of(name))
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
