"""Published and own checkpoint files through timm's own door, `create_model(pretrained=True, ...file=...)`.

Most files are of a trunk of a sixth of the width of Ti, with the published names.
"""

import json
import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filler import GOLDEN, fill_model, image, mmcls, published_gkgnet, published_pvig
from safetensors.torch import save_file
from tiny import FAMILIES, PYRAMIDS, width_of

import timm

import gkgnet_timm  # noqa: F401

BLOCKS = (0, 1, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14)  # in the published list of blocks and downsamples
PER_CLASS = ('label_embed.', 'head_label.', 'head_patch.')


def gkgnet_file(num_classes=80, img_size=64, **kwargs):
    """A state dict as published, relative position matrices (of a token size) included."""
    state_dict = published_gkgnet(img_size, num_classes, 'narrow', **kwargs)
    return {**state_dict, **{f'backbone.backbone.{i}.0.relative_pos': torch.zeros(1, 2, 2) for i in BLOCKS}}


def vig_file(num_classes=1000):
    return published_pvig(num_classes, 'narrow', family='vig')


def pvig_file(num_classes=1000):
    state_dict = published_pvig(num_classes, 'narrow')
    return {**state_dict, **{f'backbone.{i}.0.relative_pos': torch.zeros(1, 2, 2) for i in BLOCKS}}


def create(name='gkgnet_ti_224', img_size=64, **kwargs):
    return timm.create_model(name, img_size=img_size, **width_of(name), **kwargs).eval()


def load(path, name='gkgnet_ti_224', seed=0, **kwargs):
    torch.manual_seed(seed)
    return create(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


def load_tensors(published, name, **kwargs):
    """As `load`, without a file, which plays no part in most refusals."""
    return create(name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=published), **kwargs)


def fresh(name='gkgnet_ti_224', seed=0, **kwargs):
    """What `load` starts from."""
    torch.manual_seed(seed)
    return create(name, **kwargs)


@pytest.fixture
def save(tmp_path):
    def save(checkpoint, name='checkpoint.pth'):
        path = tmp_path / name
        if path.suffix == '.safetensors':
            save_file(checkpoint, path)
        else:
            torch.save(checkpoint, path)
        return path

    return save


def part(model, prefix):
    state_dict = model if isinstance(model, dict) else model.state_dict()
    return {key: value for key, value in state_dict.items() if key.startswith(prefix)}


def trunk(model):
    return part(model, ('stem.', 'stages.', 'blocks.'))


def assert_equal(actual, expected):
    actual, expected = (m if isinstance(m, dict) else m.state_dict() for m in (actual, expected))
    assert actual.keys() == expected.keys()
    different = [key for key in expected if not torch.equal(actual[key], expected[key])]
    assert not different


def assert_all_arrived(model, published):
    """Tensors of the file and of the model are the same, whatever their names."""

    def marks(state_dict):
        return sorted((v.numel(), v.double().sum().item()) for k, v in state_dict.items() if 'relative_pos' not in k)

    assert marks(model.state_dict()) == marks(published)


# --- published formats


def test_gkgnet_file(save):
    published = gkgnet_file()
    model = load(save(mmcls(published)))
    assert_all_arrived(model, published)
    direct = create(pretrained=True, pretrained_cfg_overlay=dict(state_dict=gkgnet_file()))
    assert_equal(model, direct)
    state_dict = model.state_dict()
    for ours, theirs in {
        'stem.conv2.bn.running_var': 'backbone.stem.convs.4.running_var',
        'stages.2.downsample.conv.weight': 'backbone.backbone.5.conv.0.weight',
        'stages.2.blocks.5.grapher.graph_conv.conv.conv.weight': 'backbone.backbone.11.0.graph_conv.gconv.nn.0.weight',
        'stages.3.blocks.0.ffn.fc2.bn.bias': 'backbone.backbone.13.1.fc2.1.bias',
        'label_stages.2.blocks.0.ffn.fc1.conv.weight': 'backbone.gcn_label.2.0.ffn.fc1.0.weight',
        'label_stages.3.proj.weight': 'backbone.ffn_label.2.0.weight',
        'label_embed.weight': 'backbone.label_lt.weight',
        'head_label.weight': 'head.fc1.weight',
        'head_patch.bias': 'head.fc2.bias',
    }.items():
        assert torch.equal(state_dict[ours], published[theirs]), ours


@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: dict(state_dict=d), lambda d: dict(model=d)])
def test_wrapping_does_not_matter(save, wrap):
    assert_equal(load(save(wrap(gkgnet_file()))), load(save(mmcls(gkgnet_file()))))


def test_pyramid_vig_file(save):
    published = pvig_file()
    model = load(save(published), 'pvig_ti_224', img_size=224)
    assert_all_arrived(model, published)
    assert torch.equal(model.head.fc.weight, published['prediction.4.weight'].flatten(1))
    assert torch.equal(model.head.pre_logits.bn.running_mean, published['prediction.1.running_mean'])


def test_vig_file(save):
    published = vig_file()
    model = load(save(published), 'vig_ti_224', img_size=224)
    assert_all_arrived(model, published)
    state_dict = model.state_dict()
    for ours, theirs in {
        'stem.pos_embed': 'pos_embed',
        'stem.conv1.conv.weight': 'stem.convs.0.weight',
        'stem.halvings.0.bn.running_var': 'stem.convs.4.running_var',
        'stem.halvings.1.conv.bias': 'stem.convs.6.bias',
        'stem.conv2.conv.weight': 'stem.convs.9.weight',
        'stem.conv3.bn.weight': 'stem.convs.13.weight',
        'blocks.10.grapher.graph_conv.conv.conv.weight': 'backbone.10.0.graph_conv.gconv.nn.0.weight',
        'blocks.11.ffn.fc2.bn.bias': 'backbone.11.1.fc2.1.bias',
        'head.pre_logits.conv.weight': 'prediction.0.weight',
        'head.pre_logits.bn.running_mean': 'prediction.1.running_mean',
        'head.fc.bias': 'prediction.4.bias',
    }.items():
        assert torch.equal(state_dict[ours], published[theirs]), ours
    assert torch.equal(model.head.fc.weight, published['prediction.4.weight'].flatten(1))


@pytest.mark.parametrize(
    'name, family',
    [
        ('gkgnet_ti_224', 'vig'),
        ('pvig_ti_224', 'vig'),
        ('pvig_ti_224', 'gkgnet'),
        ('vig_ti_224', 'gkgnet'),
        ('vig_ti_224', 'pvig'),
    ],
)
@pytest.mark.parametrize('own', [True, False])
def test_file_of_another_family(save, name, family, own):
    """Refused in one line with the first tensor that is wrong. A GKGNet does take its trunk from a Pyramid ViG."""
    files = dict(gkgnet=gkgnet_file, pvig=pvig_file, vig=vig_file)
    path = save(create(f'{family}_ti_224').state_dict() if own else files[family]())
    with pytest.raises(ValueError, match=r"^Checkpoint (tensor|has no tensor) '.*(another variant|needs)") as error:
        load(path, name, num_classes=5)
    assert '\n' not in str(error.value)


def test_the_published_model(save):
    """The call of the documentation, on a file with every name of the released one."""
    published = published_gkgnet(576, 80, 's')
    published.update({f'backbone.backbone.{i}.0.relative_pos': torch.zeros(1, 2, 2) for i in BLOCKS})
    assert set(published) == set(json.loads((GOLDEN / 'gkgnet_coco_576_state_dict.json').read_text()))
    path = save(mmcls(published), 'GKGNet-576.pth')
    model = timm.create_model('gkgnet_576', pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    assert_all_arrived(model, published)
    assert model.pretrained_cfg['label_names'][0] == 'person'


@pytest.mark.parametrize('num_classes', [80, 5])
def test_pyramid_vig_file_into_a_gkgnet(save, num_classes):
    path = save(pvig_file())
    model = load(path, num_classes=num_classes, img_size=224)
    assert_equal(trunk(model), trunk(load(path, 'pvig_ti_224', img_size=224)))
    branch = ('label_', 'head_')
    assert_equal(part(model, branch), part(fresh(num_classes=num_classes, img_size=224), branch))


def test_ungrouped_trunk_gives_the_maps_of_the_pyramid_vig(save):
    path = save(pvig_file())
    x = image((1, 3, 64, 64))
    with torch.no_grad():
        ours = load(path, num_classes=5, num_groups=1).forward_stages(x, 4)
        theirs = load(path, 'pvig_ti_224').forward_stages(x, 4)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('img_size', [96, (64, 128)])
def test_position_embedding_is_resampled(save, name, img_size):
    published = gkgnet_file(img_size=224) if name.startswith('gkgnet') else published_for(name)[0]
    model = load(save(published), name, img_size=img_size)
    size = [side // (16 if name.startswith('vig') else 4) for side in model.stem.img_size]
    (embed,) = (value for key, value in published.items() if key.endswith('pos_embed'))
    expected = F.interpolate(embed, size, mode='bicubic', antialias=True)
    torch.testing.assert_close(model.stem.pos_embed.detach(), expected)
    others = {k: v for k, v in model.state_dict().items() if k != 'stem.pos_embed'}
    same_size = load(save(published), name, img_size=224).state_dict()
    assert_equal(others, {k: v for k, v in same_size.items() if k != 'stem.pos_embed'})


# --- own checkpoints


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('num_classes', [None, 0, 7])
def test_own_checkpoint(save, name, suffix, num_classes):
    """Also with keys sorted, as safetensors has them, where the head comes before the stem."""
    model = fill_model(create(name, num_classes=num_classes))
    state_dict = dict(sorted(model.state_dict().items()))
    overlay = dict(file=str(save(state_dict, f'own{suffix}')))
    if num_classes:
        overlay.update(num_classes=num_classes)
    again = create(name, num_classes=num_classes, pretrained=True, pretrained_cfg_overlay=overlay)
    assert_equal(again, model)


def test_own_training_checkpoint(save):
    """As timm's saver writes it: the moving average goes first."""
    model = fill_model(create())
    average = fill_model(create(), seed=1)
    path = save(dict(arch='gkgnet_ti_224', state_dict=model.state_dict(), state_dict_ema=average.state_dict()))
    assert_equal(load(path), average)


@pytest.mark.parametrize('num_classes', [80, 5])
def test_own_headless_checkpoint_gets_a_fresh_label_branch(save, num_classes):
    headless = fill_model(create(num_classes=0))
    model = load(save(headless.state_dict()), num_classes=num_classes)
    assert_equal(trunk(model), trunk(headless))
    branch = ('label_', 'head_')
    assert_equal(part(model, branch), part(fresh(num_classes=num_classes), branch))


@pytest.mark.parametrize('name', ['pvig_ti_224', 'vig_ti_224'])
def test_own_headless_vig_gets_a_fresh_classifier(save, name):
    headless = fill_model(create(name, num_classes=0))
    model = load(save(headless.state_dict()), name, num_classes=5)
    assert_equal({k: v for k, v in model.state_dict().items() if not k.startswith('head.fc.')}, headless)
    assert_equal(part(model, 'head.fc.'), part(fresh(name, num_classes=5), 'head.fc.'))


def test_own_checkpoint_of_another_size(save):
    model = fill_model(create(img_size=96))
    loaded = load(save(model.state_dict()))
    expected = F.interpolate(model.stem.pos_embed.detach(), (16, 16), mode='bicubic', antialias=True)
    torch.testing.assert_close(loaded.stem.pos_embed.detach(), expected)


# --- other classes, channels, outputs


def test_classes_of_the_file_count(save):
    """A VOC file has 20 classes, the cfg says 80. timm alone would drop the head."""
    published = gkgnet_file(20)
    model = load(save(published), 'gkgnet_576', num_classes=20)
    assert_all_arrived(model, published)
    assert model.pretrained_cfg['num_classes'] == 20
    assert 'label_names' not in model.pretrained_cfg, 'those of COCO are not the names of these classes'
    registered = timm.get_pretrained_cfg('gkgnet_576')
    assert registered.num_classes == len(registered.label_names) == 80, 'the registered cfg is not touched'


def test_own_classes_of_the_file_count(save):
    model = fill_model(create(num_classes=20))
    assert_equal(load(save(model.state_dict()), num_classes=20), model)


@pytest.mark.parametrize('name, file', [('pvig_ti_224', pvig_file), ('vig_ti_224', vig_file)])
def test_classes_of_the_file_of_a_vig_count(save, name, file):
    published = file(20)
    model = load(save(published), name, img_size=224, num_classes=20)
    assert_all_arrived(model, published)


@pytest.mark.parametrize('in_file, in_model', [(80, 5), (20, 5), (20, 80)])
def test_another_class_count(save, in_file, in_model):
    """Label blocks are kept, what is there once a class is fresh."""
    model = load(save(gkgnet_file(in_file)), num_classes=in_model)
    whole = load(save(gkgnet_file(80)))
    assert_equal(part(model, PER_CLASS), part(fresh(num_classes=in_model), PER_CLASS))
    kept = ('stem.', 'stages.', 'label_stages.')
    assert_equal(part(model, kept), part(whole, kept))
    assert model(image((1, 3, 64, 64))).shape == (1, in_model)


@pytest.mark.parametrize('name, file', [('pvig_ti_224', pvig_file), ('vig_ti_224', vig_file)])
@pytest.mark.parametrize('in_file, in_model', [(1000, 5), (20, 5), (20, 1000)])
def test_another_class_count_of_a_vig(save, name, file, in_file, in_model):
    model = load(save(file(in_file)), name, num_classes=in_model)
    whole = load(save(file()), name)
    assert_equal(part(model, 'head.fc.'), part(fresh(name, num_classes=in_model), 'head.fc.'))
    kept = ('stem.', 'stages.', 'blocks.', 'head.pre_logits.')
    assert_equal(part(model, kept), part(whole, kept))


def test_no_classes(save):
    published = gkgnet_file()
    model = load(save(published), num_classes=0)
    assert_equal(model, trunk(load(save(published))))
    for name in ('pvig_ti_224', 'vig_ti_224'):
        published, _ = published_for(name)
        vig = load(save(published), name, num_classes=0)
        assert not part(vig, 'head.fc.')
        assert torch.equal(vig.head.pre_logits.conv.weight, published['prediction.0.weight'])


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('in_chans', [1, 4])
def test_other_channels(save, name, in_chans):
    published, _ = published_for(name)
    model = load(save(published), name, in_chans=in_chans)
    rgb = load(save(published), name)
    first = 'stem.conv1.conv.weight'
    weight, source = model.state_dict()[first], rgb.state_dict()[first]
    if in_chans == 1:
        torch.testing.assert_close(weight, source.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(weight, source[:, [0, 1, 2, 0]] * 3 / 4)
    assert_equal(*({k: v for k, v in m.state_dict().items() if k != first} for m in (model, rgb)))


@pytest.mark.parametrize('name', PYRAMIDS)
@pytest.mark.parametrize('out_indices', [None, (0, 2)])
def test_features_only(save, name, out_indices):
    path = save(gkgnet_file() if name.startswith('gkgnet') else pvig_file())
    backbone = load(path, name, features_only=True, out_indices=out_indices)
    x = image((1, 3, 64, 96))
    with torch.no_grad():
        maps = load(path, name).forward_stages(x, 4)
        taken = [maps[i] for i in out_indices or range(4)]
        assert all(torch.equal(a, b) for a, b in zip(backbone(x), taken, strict=True))


def test_features_only_of_a_vig(save):
    path = save(vig_file())
    backbone = load(path, 'vig_ti_224', features_only=True, out_indices=(0, 5))
    x = image((1, 3, 64, 96))
    with torch.no_grad():
        expected = load(path, 'vig_ti_224').forward_intermediates(x, indices=[0, 5], intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(backbone(x), expected, strict=True))


# --- nothing is loaded by halves

TRUNK_TENSORS = {
    'stem.convs.3.weight': 'stem.conv2.conv.weight',
    'pos_embed': 'stem.pos_embed',
    'backbone.5.conv.1.running_mean': 'stages.2.downsample.bn.running_mean',
    'backbone.14.0.fc1.0.bias': 'stages.3.blocks.1.grapher.fc1.conv.bias',
    'backbone.3.1.fc2.0.weight': 'stages.1.blocks.0.ffn.fc2.conv.weight',
}
TARGETS = [
    ('gkgnet_ti_224', 80),
    ('gkgnet_ti_224', 5),  # timm is not strict when class counts differ
    ('gkgnet_ti_224', 0),
    ('pvig_ti_224', 1000),
    ('pvig_ti_224', 5),
]


def published_for(name):
    """Tensors of a file, and what their names start with."""
    if name.startswith('gkgnet'):
        return gkgnet_file(), 'backbone.'
    return vig_file() if name.startswith('vig') else pvig_file(), ''


@pytest.mark.parametrize('name, num_classes', TARGETS)
@pytest.mark.parametrize('theirs, ours', TRUNK_TENSORS.items())
def test_missing_trunk_tensor(save, name, num_classes, theirs, ours):
    published, prefix = published_for(name)
    del published[prefix + theirs]
    with pytest.raises(ValueError, match=ours):
        load(save(published), name, num_classes=num_classes)


@pytest.mark.parametrize('name, num_classes', TARGETS)
@pytest.mark.parametrize('theirs, ours', TRUNK_TENSORS.items())
def test_trunk_tensor_of_another_shape(name, num_classes, theirs, ours):
    published, prefix = published_for(name)
    tensor = published[prefix + theirs]
    axis = 1 if theirs == 'pos_embed' else 0
    published[prefix + theirs] = torch.cat([tensor, tensor], dim=axis)
    with pytest.raises(ValueError, match=ours):
        load_tensors(published, name, num_classes=num_classes)


@pytest.mark.parametrize('name, num_classes', TARGETS)
@pytest.mark.parametrize('key', ['backbone.15.0.fc1.0.weight', 'backbone.2.conv.2.weight', 'backbone.0.2.fc1.0.weight'])
def test_left_over_trunk_tensor(name, num_classes, key):
    published, prefix = published_for(name)
    published[prefix + key] = torch.zeros(3)
    with pytest.raises(ValueError, match=key):
        load_tensors(published, name, num_classes=num_classes)


VIG_TENSORS = {
    'stem.convs.9.weight': 'stem.conv2.conv.weight',
    'pos_embed': 'stem.pos_embed',
    'backbone.11.0.fc1.0.bias': 'blocks.11.grapher.fc1.conv.bias',
    'prediction.0.weight': 'head.pre_logits.conv.weight',
}


@pytest.mark.parametrize('theirs, ours', VIG_TENSORS.items())
@pytest.mark.parametrize('change', ['missing', 'shape'])
def test_wrong_tensor_of_a_vig(save, theirs, ours, change):
    published = vig_file()
    tensor = published.pop(theirs)
    if change == 'shape':
        published[theirs] = torch.cat([tensor, tensor], dim=1 if theirs == 'pos_embed' else 0)
    with pytest.raises(ValueError, match=ours):
        load(save(published), 'vig_ti_224', num_classes=5)


@pytest.mark.parametrize('key', ['backbone.12.0.fc1.0.weight', 'backbone.2.conv.0.weight', 'stem.convs.15.weight'])
def test_left_over_tensor_of_a_vig(save, key):
    published = {**vig_file(), key: torch.zeros(3)}
    with pytest.raises(ValueError, match=f"'{key}' has no place in a model of 12 blocks: another variant"):
        load(save(published), 'vig_ti_224', num_classes=5)


@pytest.mark.parametrize('num_classes', [80, 5])
@pytest.mark.parametrize('change', ['missing', 'shape', 'left over'])
def test_own_trunk_is_strict_too(save, num_classes, change):
    state_dict = create().state_dict()
    key = 'stages.1.blocks.1.ffn.fc1.conv.weight'
    if change == 'missing':
        del state_dict[key]
    elif change == 'shape':
        state_dict[key] = state_dict[key][1:]
    else:
        key = 'stages.1.blocks.2.ffn.fc1.conv.weight'
        state_dict[key] = torch.zeros(3)
    with pytest.raises(ValueError, match=key):
        load(save(state_dict), num_classes=num_classes)


@pytest.mark.parametrize('num_classes', [80, 5])
@pytest.mark.parametrize(
    'theirs, ours',
    {
        'backbone.gcn_label.2.0.ffn.fc1.0.weight': 'label_stages.2.blocks.0.ffn.fc1.conv.weight',
        'backbone.gcn_label.3.0.fc1.1.running_var': 'label_stages.3.blocks.0.grapher.fc1.bn.running_var',
        'backbone.ffn_label.0.0.bias': 'label_stages.1.proj.bias',
        'backbone.label_lt.weight': 'label_embed.weight',
        'head.fc1.bias': 'head_label.bias',
        'head.fc2.weight': 'head_patch.weight',
    }.items(),
)
def test_label_branch_is_whole_or_absent(save, num_classes, theirs, ours):
    published = gkgnet_file()
    del published[theirs]
    with pytest.raises((ValueError, RuntimeError), match=ours):
        load(save(published), num_classes=num_classes)


@pytest.mark.parametrize('num_classes', [80, 5])
@pytest.mark.parametrize('in_file, in_model', [(1, 2), (2, 1)])
def test_label_depth_has_to_fit(save, num_classes, in_file, in_model):
    path = save(gkgnet_file(label_depth=in_file))
    with pytest.raises((ValueError, RuntimeError), match='label_stages.3.blocks.1'):
        load(path, num_classes=num_classes, label_depth=in_model)
    assert len(load(path, num_classes=num_classes, label_depth=in_file).label_stages[3].blocks) == in_file


@pytest.mark.parametrize('num_classes', [1000, 5])
def test_hidden_layer_of_pyramid_vig_is_whole(save, num_classes):
    published = pvig_file()
    del published['prediction.0.weight']
    with pytest.raises((ValueError, RuntimeError), match='head.pre_logits.conv.weight'):
        load(save(published), 'pvig_ti_224', num_classes=num_classes)


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('num_classes', [None, 5])
def test_file_of_another_model(save, name, num_classes):
    other = timm.create_model('test_resnet')
    with pytest.raises(ValueError, match='Not a checkpoint of GKGNet, Pyramid ViG or ViG'):
        load(save(other.state_dict()), name, num_classes=num_classes)


@pytest.mark.parametrize('num_classes', [80, 5])
def test_file_of_another_variant(save, num_classes):
    deeper = create(depths=(2, 2, 7, 2)).state_dict()
    with pytest.raises(ValueError, match='stages.2.blocks.6.*another variant'):
        load(save(deeper), num_classes=num_classes)
    with pytest.raises(ValueError, match='stages.2.blocks.6'):
        load(save(create().state_dict()), num_classes=num_classes, depths=(2, 2, 7, 2))


# --- what a file may hold besides tensors

NAMES = ['person', 'Möwe', '犬']


def class_names():
    return {
        'unicode': np.array(NAMES),
        'object': np.array(NAMES, dtype=object),
        'list of scalars': [np.str_(name) for name in NAMES],
        'numbers': dict(best=np.float64(0.5), epoch=np.int64(3), fast=np.bool_(True), ap=np.zeros((2, 3), np.float32)),
    }


@pytest.mark.parametrize('kind', class_names())
def test_numpy_meta(save, kind):
    published = gkgnet_file()
    assert_all_arrived(load(save(mmcls(published, CLASSES=class_names()[kind]))), published)


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize('kind', class_names())
def test_numpy_meta_of_another_numpy(tmp_path, kind, package):
    """numpy 2 renamed the module that pickled arrays name. Whichever is installed here, both are read."""
    published = gkgnet_file()
    path = tmp_path / 'checkpoint.pth'
    # not a zip file, in which a change would break the checksum
    torch.save(mmcls(published, CLASSES=class_names()[kind]), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes().replace(b'numpy._core.', b'numpy.core.').replace(b'numpy.core.', f'{package}.'.encode())
    assert f'c{package}.multiarray\n'.encode() in content
    path.write_bytes(content)
    assert_all_arrived(load(path), published)


@pytest.mark.parametrize('works', [True, False])
def test_allow_list_is_restored(save, works):
    published = gkgnet_file()
    if not works:
        del published['backbone.pos_embed']
    path = save(mmcls(published, CLASSES=np.array(NAMES)))
    before = set(torch.serialization.get_safe_globals())
    if works:
        load(path)
    else:
        with pytest.raises(ValueError, match='pos_embed'):
            load(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match='numpy'):
        torch.load(path, weights_only=True)


class Admitted:
    """Something a user had admitted."""


def test_allow_list_of_the_user_is_kept(save):
    reconstruct = np.empty(0).__reduce__()[0]
    path = save(mmcls(gkgnet_file(), CLASSES=np.array(NAMES), mine=Admitted()))
    users = [Admitted, np.ndarray, np.dtype, (reconstruct, 'numpy.core.multiarray._reconstruct')]
    with torch.serialization.safe_globals(users):
        before = set(torch.serialization.get_safe_globals())
        load(path)
        assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(ValueError, match='Admitted'):
        load(path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'echo run > {self.path}',)


@pytest.mark.parametrize('place', ['meta', 'array', 'state_dict'])
@pytest.mark.parametrize('name', ['gkgnet_ti_224', 'pvig_ti_224'])
def test_executable_content_is_refused(save, tmp_path, name, place):
    marker = tmp_path / 'marker'
    published, _ = published_for(name)
    payload = Payload(marker)
    if place == 'meta':
        checkpoint = mmcls(published, hook=payload)
    elif place == 'array':
        checkpoint = mmcls(published, CLASSES=np.array([payload, 'person'], dtype=object))
    else:
        checkpoint = {**published, 'extra': payload}
    path = save(checkpoint)
    with pytest.raises(ValueError, match='was not run'):
        load(path, name)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), 'the payload is live'
