"""That the fields of a configuration reach data sets, loaders, model and optimizer."""

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from timm.optim import create_optimizer_v2, optimizer_kwargs

from gkgnet_timm.data import start_epoch
from gkgnet_timm.inference.device import Process
from gkgnet_timm.training import build
from gkgnet_timm.training.build import create_datasets, create_loaders, create_task
from gkgnet_timm.training.config import TrainConfig

PROCESS = Process(torch.device('cpu'))
NARROW = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)
DATA_CONFIG = dict(
    input_size=(3, 32, 32), mean=(0, 0, 0), std=(1, 1, 1), interpolation='bicubic', crop_pct=1.0, crop_mode='squash'
)


def open_loaders(config):
    """Loaders of training and evaluation, at the start of the first epoch."""
    loaders = create_loaders(config, *create_datasets(config, PROCESS, None), DATA_CONFIG, PROCESS)
    start_epoch(loaders[0], config.seed, 0, 0)
    return loaders


def stream(folder, **fields):
    fields = dict(target_key='indices', target_format='indices', num_classes=3, batch_size=2, workers=0) | fields
    split = 'x-{0..1}.tar|10'
    return TrainConfig('wds/x', data_dir=str(folder), train_split=split, val_split=split, **fields)


@pytest.fixture
def uniform(tmp_path):
    """Eight images of one colour each, a label for every second one; the same images are trained on and evaluated."""
    for i in range(8):
        Image.new('RGB', (40, 40), (20 + 30 * i,) * 3).save(tmp_path / f'{i}.png')
    rows = ''.join(f'{i}.png,{("cat", "")[i % 2]}\n' for i in range(8))
    (tmp_path / 'train.csv').write_text(f'file,labels\n{rows}')
    (tmp_path / 'val.csv').write_text('file,labels\n0.png,cat\n1.png,\n2.png,cat\n')
    return TrainConfig('csv', data_dir=str(tmp_path), batch_size=8, workers=0, no_aug=True)


@pytest.mark.parametrize('unknown, value', [(None, 1), ('positive', 1), ('negative', 0), ('ignore', -1)])
def test_unknown_labels_are_for_training_only(unknown, value, voc_folder):
    config = TrainConfig('voc', data_dir=str(voc_folder), unknown_labels=unknown)
    train_set, val_set = create_datasets(config, PROCESS, None)
    person = train_set.class_names.index('person')
    assert train_set.targets()[:, person].tolist() == [value, 1, 0] and train_set[0][1][person] == value
    assert val_set.targets()[:, person].tolist() == [-1, 1]


@pytest.mark.parametrize('drop', [False, True])
def test_images_without_labels_are_dropped(drop, coco_folder):
    config = TrainConfig('coco', data_dir=str(coco_folder), train_split='train', val_split='val', drop_unlabelled=drop)
    assert [len(dataset) for dataset in create_datasets(config, PROCESS, None)] == [4 - drop] * 2


def test_lengths_of_streams(shards):
    config = stream(shards, train_num_samples=6, val_num_samples=4, validation_batch_size=3)
    train_set, val_set = create_datasets(config, PROCESS, None)
    assert (len(train_set), len(val_set)) == (6, 4)
    assert [len(loader) for loader in open_loaders(config)] == [3, 2]
    assert [len(dataset) for dataset in create_datasets(stream(shards), PROCESS, None)] == [10, 10]


def test_input_key_chooses_the_image_of_a_stream(shards):
    """Each sample gets a second image, a white one. timm looks for it under 'jpg', too, once it is decoded."""
    white = io.BytesIO()
    Image.new('RGB', (32, 32), 'white').save(white, 'PNG')
    for path in shards.glob('*.tar'):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        files.update({name.replace('.png', '.white.png'): white.getvalue() for name in files if name.endswith('.png')})
        with tarfile.open(path, 'w') as tar:
            for name in sorted(files):
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
    for key, is_white in ((None, False), ('white.png;jpg', True), ('jpg;png', False)):
        for loader in open_loaders(stream(shards, input_key=key, no_aug=True)):
            images = torch.cat([images for images, _ in loader])
            assert len(images) == 10 and bool((images == 1).all()) == is_white


def test_batch_size_of_evaluation(uniform):
    def sizes(config):
        return [[len(images) for images, _ in loader] for loader in open_loaders(config)]

    assert sizes(replace(uniform, batch_size=3, validation_batch_size=2)) == [[3, 3, 2], [2, 1]]
    assert sizes(TrainConfig('csv', data_dir=uniform.data_dir, batch_size=5, workers=0)) == [[5, 3], [3]]


@pytest.mark.parametrize('prob', [0, 1])
def test_probability_of_mixing(prob, uniform):
    for images, target in open_loaders(replace(uniform, mixup=1.0, mixup_prob=prob))[0]:
        originals = torch.arange(20, 260, 30) / 255
        assert torch.equal(images.unique(), originals) != bool(prob)
        assert bool(((target > 0) & (target < 1)).any()) == bool(prob)


@pytest.mark.parametrize('switch_prob', [0, 1])
def test_probability_of_cutmix_in_place_of_mixup(switch_prob, uniform):
    """Mixup of images of one colour has one colour, cutmix of them has two."""
    config = replace(uniform, mixup=1.0, cutmix=1.0, mixup_switch_prob=switch_prob)
    for images, _ in open_loaders(config)[0]:
        assert {image.unique().numel() for image in images} == {1 + switch_prob}


def test_augmentation_is_that_of_the_configuration(uniform, monkeypatch):
    values = dict(train_crop_mode='rkrc', scale=[0.2, 0.3], ratio=[0.4, 0.5], hflip=0.1, vflip=0.6, color_jitter=0.7)
    values.update(cropmix=0.8, reprob=0.9, no_aug=True)
    called = []
    monkeypatch.setattr(build, 'create_train_transform', lambda size, **kwargs: called.append((size, kwargs)))
    config = replace(uniform, **values, aa='trivial', train_interpolation='bilinear')
    create_loaders(config, *create_datasets(config, PROCESS, None), DATA_CONFIG, PROCESS)
    rest = dict(auto_augment='trivial', interpolation='bilinear', mean=(0, 0, 0), std=(1, 1, 1))
    assert called == [((3, 32, 32), values | rest)]


@pytest.mark.parametrize('flips', [dict(hflip=1.0), dict(vflip=1.0), dict(hflip=0.0)])
def test_flips_of_training_images(flips, uniform):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for i in range(8):
        Image.fromarray(pixels).save(f'{uniform.data_dir}/{i}.png')
    whole = dict(scale=[1.0, 1.0], ratio=[1.0, 1.0], color_jitter=0)
    config = replace(uniform, no_aug=False, **whole, **dict(hflip=0.0, vflip=0.0) | flips)
    original = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    dims = [dim for name, dim in (('hflip', 2), ('vflip', 1)) if flips.get(name)]
    for images, _ in open_loaders(config)[0]:
        for image in images:
            torch.testing.assert_close(image, original.flip(dims))


@pytest.mark.parametrize('init', ['resample', 'zero'])
def test_position_embedding_of_another_size(init, uniform, tmp_path):
    config = replace(uniform, model='gkgnet_ti_224', model_kwargs=NARROW, img_size=32)
    train_set, _ = create_datasets(config, PROCESS, None)
    weights = create_task(config, train_set, PROCESS).get_trainable_module().state_dict()
    weights['stem.pos_embed'] = torch.ones_like(weights['stem.pos_embed'])
    torch.save(weights, tmp_path / 'weights.pth')
    config = replace(config, img_size=64, pos_embed_init=init, pretrained_path=str(tmp_path / 'weights.pth'))
    model = create_task(config, train_set, PROCESS).get_trainable_module()
    assert torch.equal(model.stem.conv1.conv.weight, weights['stem.conv1.conv.weight'])
    expected = torch.full_like(model.stem.pos_embed, float(init == 'resample'))
    torch.testing.assert_close(model.stem.pos_embed, expected)


def test_seed_decides_the_order_and_the_weights(uniform):
    config = replace(uniform, model='gkgnet_ti_224', model_kwargs=NARROW, img_size=32)
    train_set, _ = create_datasets(config, PROCESS, None)
    orders, weights = [], []
    for seed in (1, 1, 2):
        loader, _ = open_loaders(replace(config, seed=seed))
        orders.append([tuple(images[:, 0, 0, 0].tolist()) for images, _ in loader])
        task = create_task(replace(config, seed=seed), train_set, PROCESS)
        weights.append(task.get_trainable_module().stem.conv1.conv.weight)
    assert orders[0] == orders[1] != orders[2]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_ranks_share_the_images(uniform):
    parts = []
    for rank in range(2):
        process = Process(torch.device('cpu'), rank, 2)
        loader, _ = create_loaders(uniform, *create_datasets(uniform, process, None), DATA_CONFIG, process)
        start_epoch(loader, uniform.seed, 0, rank)
        parts.append({value for images, _ in loader for value in images[:, 0, 0, 0].tolist()})
    assert len(parts[0]) == len(parts[1]) == 4 and not parts[0] & parts[1]


@pytest.mark.parametrize('name', ['grad_checkpointing', 'channels_last'])
def test_memory_of_the_model(name, uniform):
    for value in (False, True):
        config = replace(uniform, model='gkgnet_ti_224', model_kwargs=NARROW, img_size=32, **{name: value})
        task = create_task(config, create_datasets(config, PROCESS, None)[0], PROCESS)
        model = task.get_trainable_module()
        if name == 'grad_checkpointing':
            assert any(getattr(module, name, False) for module in model.modules()) == value
        else:
            weight = model.stem.conv1.conv.weight
            assert weight.is_contiguous(memory_format=torch.channels_last) == value


def test_statistics_of_other_classes(uniform, tmp_path):
    (tmp_path / 'stats.json').write_text('{"pos_counts": [3, 4], "num_samples": 10}')
    config = replace(uniform, model='test_resnet', class_stats=str(tmp_path / 'stats.json'))
    train_set, _ = create_datasets(config, PROCESS, None)
    with pytest.raises(ValueError, match='stats.json. counts 2 classes, the data set has 1'):
        create_task(config, train_set, PROCESS)


def test_momentum_of_the_optimizer(uniform):
    model = torch.nn.Linear(2, 2)
    for momentum in (0.3, 0.9):
        config = replace(uniform, opt='momentum', momentum=momentum)
        optimizer = create_optimizer_v2(model, **optimizer_kwargs(config))
        assert {group['momentum'] for group in optimizer.param_groups} == {momentum}
