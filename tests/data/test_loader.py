"""What an epoch of training is made of: which images, in which order, drawn how, mixed how."""

import math
import multiprocessing
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import FastCollateMixup

from gkgnet_timm.data import create_dataset, create_train_loader, create_train_transform, start_epoch
from gkgnet_timm.data.loader import TrainCollate
from gkgnet_timm.data.sampling import class_balanced_indices

CPU = torch.device('cpu')
CONFIG = dict(mean=(0.0,) * 3, std=(1 / 255,) * 3, input_size=(3, 8, 8))  # pixels come out as they are
IMAGENET = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, input_size=(3, 32, 32))


class Toy(Dataset):
    """Images of nothing but their index, whose classes are drawn; the transform turns an index into an image."""

    def __init__(self, size, num_classes=3):
        self.class_names = [str(i) for i in range(num_classes)]
        self.labels = (np.random.default_rng(0).random((size, num_classes)) < 0.3).astype(np.int8)
        self.transform = None

    def __len__(self):
        return len(self.labels)

    def targets(self):
        return self.labels

    def __getitem__(self, index):
        return self.transform(index), torch.from_numpy(self.labels[index]).float()


def image_of(index):
    return torch.tensor([index // 256, index % 256, 0], dtype=torch.uint8)[:, None, None].expand(3, 8, 8).clone()


def noisy_image_of(index):
    """The index, then what every source of randomness draws."""
    image = image_of(index)
    image[2, 0, :3] = torch.tensor([random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))])
    return image


def toy_loader(size=10, batch_size=4, transform=image_of, workers=0, **kwargs):
    return create_train_loader(Toy(size), CONFIG, transform, batch_size, CPU, workers, **kwargs)


def epoch_of(loader, epoch=0, seed=42, rank=0):
    start_epoch(loader, seed, epoch, rank)
    return list(loader)


def indices_of(batches):
    return [int(image[0, 0, 0]) * 256 + int(image[1, 0, 0]) for images, _ in batches for image in images]


# class-balanced repetition


def one_class(count, images):
    """Targets of a class that a number of images has."""
    return np.arange(images)[:, None] < count


@pytest.mark.parametrize(
    'count, images, repeats',
    [
        (5000, 10000, 1), (101, 10000, 1), (100, 10000, 1), (99, 10000, 2), (26, 10000, 2), (25, 10000, 2),
        (24, 10000, 3), (12, 10000, 3), (11, 10000, 4), (7, 10000, 4), (6, 10000, 5), (1, 10000, 10),
    ],
)  # fmt: skip
def test_oversampling_bands(count, images, repeats):
    counts = Counter(class_balanced_indices(one_class(count, images), 0.01))
    assert [counts[i] for i in range(images)] == [repeats] * count + [1] * (images - count)


@pytest.mark.parametrize('threshold', [0.01, 0.05, 0.3, 0.999])
def test_oversampling_is_the_published_rule(threshold):
    """Image by image and class by class."""
    generator = np.random.default_rng(0)
    targets = (generator.random((400, 8)) < [0.6, 0.2, 0.05, 0.02, 0.01, 0.004, 0.003, 0]).astype(np.int8)
    targets[generator.random(targets.shape) < 0.1] = -1  # unknown is not in the image
    frequency = [sum(row[c] == 1 for row in targets.tolist()) / 400 for c in range(8)]
    expected = []
    for index, row in enumerate(targets.tolist()):
        wanted = [math.sqrt(threshold / frequency[c]) for c in range(8) if row[c] == 1]
        expected += [index] * math.ceil(max(1, *wanted, 1))
    assert class_balanced_indices(targets, threshold) == expected
    assert len(expected) > 400


@pytest.mark.parametrize('threshold', [-0.1, 0, 1, 2])
def test_oversampling_threshold_is_a_fraction(threshold):
    with pytest.raises(ValueError, match='oversample-thr'):
        class_balanced_indices(one_class(1, 10), threshold)


def test_oversampled_epoch():
    loader = toy_loader(200, 16, oversample_thr=0.5)
    expected = Counter(class_balanced_indices(Toy(200).labels, 0.5))
    assert Counter(indices_of(epoch_of(loader))) == expected and expected.total() > 200
    assert len(loader) == math.ceil(expected.total() / 16)


# order


@pytest.mark.parametrize('size, world_size', [(10, 1), (10, 3), (7, 4), (12, 4), (3, 5)])
def test_ranks_go_through_every_image_once(size, world_size):
    """Padded by wrapping around to as many images for every rank (recipe, 3.2)."""
    loaders = [toy_loader(size, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    order = indices_of(epoch_of(toy_loader(size, 4), 3))
    assert sorted(order) == list(range(size))
    share = math.ceil(size / world_size)
    padded = (order * world_size)[: share * world_size]
    for rank, loader in enumerate(loaders):
        batches = epoch_of(loader, 3, rank=rank)
        assert indices_of(batches) == padded[rank::world_size]
        assert [len(images) for images, _ in batches] == [4] * (share // 4) + [share % 4] * (share % 4 > 0)
        assert len(loader) == math.ceil(share / 4)


def test_order_depends_on_seed_and_epoch_only():
    loader = toy_loader(50)
    orders = {epoch: indices_of(epoch_of(loader, epoch)) for epoch in (0, 1, 2)}
    assert orders[0] != orders[1] != orders[2] != orders[0]
    random.random(), torch.rand(3)
    assert indices_of(epoch_of(toy_loader(50, 8, workers=2), 1)) == orders[1]  # as the first epoch of a resumed run
    assert indices_of(epoch_of(toy_loader(50, seed=7), 1, seed=7)) != orders[1]


@pytest.mark.parametrize('world_size', [1, 3, 8])
@pytest.mark.parametrize('repeats', [3, 2, 1.5])
def test_repeated_augmentation(world_size, repeats):
    """The usual length down to a multiple of 256, each image several times, its copies on different ranks."""
    size = 600
    loaders = [toy_loader(size, 16, aug_repeats=repeats, rank=r, world_size=world_size) for r in range(world_size)]
    ranks = [indices_of(epoch_of(loader, 2, rank=rank)) for rank, loader in enumerate(loaders)]
    assert [len(indices) for indices in ranks] == [size // 256 * 256 // world_size] * world_size
    order = torch.randperm(size, generator=torch.Generator().manual_seed(42 + 2)).tolist()  # seed and epoch
    dealt = [index for step in zip(*ranks) for index in step]
    assert dealt == [order[int(i // repeats)] for i in range(len(dealt))]  # copies side by side


@pytest.mark.parametrize('world_size, images, batches', [(8, 10_336, 646), (1, 82_688, 5168)])
def test_repeated_augmentation_of_coco(world_size, images, batches):
    loader = toy_loader(82_783, 16, aug_repeats=3, rank=world_size - 1, world_size=world_size)
    assert (len(loader.sampler), len(loader)) == (images, batches)
    assert len(toy_loader(82_783, 16, world_size=8)) == 647


# randomness


@pytest.fixture(params=[0, 2])
def noisy(request):
    def create(**kwargs):
        return toy_loader(24, 4, noisy_image_of, request.param, **kwargs)

    return create


def draws(batches):
    return np.array([image[2, 0, :3].tolist() for images, _ in batches for image in images])


def test_an_epoch_is_the_same_whatever_was_before(noisy):
    loader = noisy()
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    for again in (epoch_of(noisy(), 1), epoch_of(loader, 1)):
        for (images, target), (expected, expected_target) in zip(again, second):
            assert images.equal(expected) and target.equal(expected_target)
    assert (draws(first) != draws(second)).mean() > 0.9


def test_nobody_draws_what_another_one_draws(noisy):
    """Every source of randomness in every worker, rank, epoch and run has numbers of its own."""
    runs = [
        draws(epoch_of(noisy(seed=seed, rank=rank, world_size=2), epoch, seed, rank))
        for seed, epoch, rank in [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2, 0, 0)]
    ]
    for i, run in enumerate(runs):
        batches = run.reshape(3, 4, 3)  # alternately from both workers
        assert (batches[0] != batches[1]).mean(axis=0).min() > 0.5
        assert (run[:, 0] != run[:, 1]).any() and (run[:, 1] != run[:, 2]).any()
        for other in runs[:i]:
            assert (run != other).mean(axis=0).min() > 0.7


@pytest.mark.parametrize('workers', [0, 2])
def test_published_augmentation_and_mixing_are_reproducible(coco_folder, workers):
    transform = create_train_transform(32, cropmix=0.5, reprob=0.5, hflip=0.5, color_jitter=0.4, auto_augment='trivial')
    mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, mode='elem')
    runs = []
    for epochs in ([0, 1], [1]):
        dataset = create_dataset('coco', coco_folder, 'train')
        loader = create_train_loader(dataset, IMAGENET, transform, 2, CPU, workers, oversample_thr=0.9, mixup=mixup)
        runs.append([torch.cat([images for images, _ in epoch_of(loader, epoch)]) for epoch in epochs])
    (first, second), (again,) = runs
    assert second.equal(again) and not first.equal(second)
    assert abs(first.mean()) < 2 and 0.3 < first.std() < 3  # normalised


@pytest.fixture
def by_spawn(forks):
    """Start processes as Windows and macOS do, until a test says otherwise."""
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method('spawn', force=True)
    yield
    multiprocessing.set_start_method(method, force=True)


def epochs_of(loader, epochs, seed=42):
    """The batches of some epochs, and the ids of the processes that loaded each."""
    batches, processes = [], []
    for epoch in epochs:
        batches.append(epoch_of(loader, epoch, seed))
        processes.append({process.pid for process in multiprocessing.active_children()})
    return batches, processes


def test_spawned_workers_live_on_and_draw_what_forked_ones_draw(by_spawn):
    """Each epoch is that of new workers, so that a resumed run goes on exactly, even by other means of starting."""

    def create():
        return toy_loader(22, 4, noisy_image_of, 2, mixup=dict(mixup_alpha=1.0, mode='elem'))

    spawned, processes = epochs_of(create(), [0, 1, 1])
    assert len(processes[0]) == 2 and all(found == processes[0] for found in processes)
    multiprocessing.set_start_method('fork', force=True)
    forked, _ = epochs_of(create(), [0, 1, 1])
    for ours, theirs in zip(spawned, forked):
        assert len(ours) == len(theirs) == 6
        for (images, target), (expected, expected_target) in zip(ours, theirs):
            assert images.equal(expected) and target.equal(expected_target)
    assert not spawned[0][0][0].equal(spawned[1][0][0])


@pytest.mark.parametrize('method', ['spawn', 'fork'])
def test_epoch_that_was_left_after_a_batch_starts_the_same_again(method, by_spawn):
    """As for pictures of the first batch, drawn before the training."""
    multiprocessing.set_start_method(method, force=True)
    whole, left = (toy_loader(22, 4, noisy_image_of, 2, mixup=dict(mixup_alpha=1.0, mode='elem')) for _ in range(2))
    start_epoch(left, 42, 0, 0)
    first, _ = next(iter(left))
    batches = [epoch_of(loader, 0, 42) for loader in (whole, left)]
    assert first.equal(batches[0][0][0]) and len(batches[1]) == 6
    for (images, target), (expected, expected_target) in zip(*batches):
        assert images.equal(expected) and target.equal(expected_target)


@pytest.mark.parametrize('kwargs', [{}, dict(aug_repeats=2), dict(world_size=2, rank=1), dict(oversample_thr=0.9)])
def test_order_is_the_same_for_workers_that_live_on(kwargs, by_spawn):
    spawned = toy_loader(22, workers=2, **kwargs)
    multiprocessing.set_start_method('fork', force=True)
    forked = toy_loader(22, workers=2, **kwargs)
    for epoch in (0, 1):
        for loader in (spawned, forked):
            start_epoch(loader, 42, epoch, 0)
        assert [place.index for place in spawned.sampler] == list(forked.sampler)
        assert len(spawned.sampler) == len(forked.sampler) and len(spawned.dataset) == len(forked.dataset)


def test_which_workers_live_on(by_spawn):
    """Not those that could not be told that mixing ends."""
    mixup = dict(mixup_alpha=1.0)
    assert toy_loader(workers=1, mixup=mixup).loader.persistent_workers
    assert toy_loader(workers=1, mixup_ends=True).loader.persistent_workers
    assert not toy_loader(workers=1, mixup=mixup, mixup_ends=True).loader.persistent_workers
    assert not toy_loader(workers=0).loader.persistent_workers
    multiprocessing.set_start_method('fork', force=True)
    assert not toy_loader(workers=1).loader.persistent_workers


# batches


def samples(*targets, pixel=10):
    return [
        (torch.full((3, 8, 8), (i + 1) * pixel, dtype=torch.uint8), torch.tensor(target))
        for i, target in enumerate(targets)
    ]


UNREADABLE = [torch.nan] * 2


def test_unreadable_images_are_left_out():
    batch = samples([1.0, 0], UNREADABLE, [-1.0, 1], UNREADABLE)
    images, target = TrainCollate(2)(batch)
    assert images[:, 0, 0, 0].tolist() == [10, 30] and target.tolist() == [[1, 0], [-1, 1]]


@pytest.mark.parametrize('mixup', [None, dict(mixup_alpha=1.0)])
def test_batches_keep_two_images_for_normalisation(mixup):
    """The unreadable ones among them have no label."""
    collate = TrainCollate(2, mixup)
    for unreadable, kept in ((1, 1), (2, 2), (3, 2)):
        images, target = collate(samples(*[UNREADABLE] * unreadable))
        assert images.shape == (kept, 3, 8, 8) and target.shape == (kept, 2) and target.isnan().all()
    images, target = collate(samples(UNREADABLE, UNREADABLE, [-1.0, 1], UNREADABLE))
    assert images[:, 0, 0, 0].tolist() == [30, 10]
    assert target[0].tolist() == [-1, 1] and target[1].isnan().all()


def test_mixing_without_unreadable_images(monkeypatch):
    monkeypatch.setattr(np.random, 'beta', lambda a, b, size=None: 0.75 if size is None else np.full(size, 0.75))
    images, target = TrainCollate(2, dict(mixup_alpha=1.0))(samples([1.0, 0], UNREADABLE, [0.0, 1]))
    assert images[:, 0, 0, 0].tolist() == [15, 25] and target.tolist() == [[0.75, 0.25], [0.25, 0.75]]


MIXES = {'mixup': dict(mixup_alpha=1.0), 'cutmix': dict(mixup_alpha=0.0, cutmix_alpha=1.0)}
MIXES['both'] = MIXES['cutmix'] | MIXES['mixup']


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('kind', MIXES)
@pytest.mark.parametrize('size', [1, 2, 5, 6])
def test_labels_follow_the_pixels(kind, mode, size):
    """Each target has the share of each image's labels that the pixels have of the image; the odd one stays."""
    np.random.seed(size)
    collate = TrainCollate(size, MIXES[kind] | dict(mode=mode, prob=0.8))
    mixed = 0
    for _ in range(30):
        values = torch.arange(1, size + 1) * 40
        images, target = collate(samples(*torch.eye(size).tolist(), pixel=40))
        pairs = size // 2 * 2
        assert images.shape == (size, 3, 8, 8) and target.shape == (size, size)
        torch.testing.assert_close(target.sum(dim=1), torch.ones(size))
        for i in range(size):
            partner = pairs - 1 - i if i < pairs else i
            assert set(target[i].nonzero()[:, 0].tolist()) <= {i, partner}
            mean = (target[i] * values).sum()
            assert images[i].float().mean().item() == pytest.approx(mean.item(), abs=0.51)  # rounded once
        mixed += int((target.max(dim=1).values < 1).sum())
        if mode == 'batch':
            torch.testing.assert_close(target[:pairs].diag(), target[0, 0].expand(pairs))
        elif mode == 'pair':
            torch.testing.assert_close(target[:pairs].diag(), target[:pairs].diag().flip(0))
    assert mixed > 10 or size == 1


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('kind', MIXES)
def test_unknown_wins_where_images_are_mixed(kind, mode):
    """And nowhere else: in a batch, or next to mixed images, one that stays as it is keeps its labels."""
    targets = torch.tensor([[1.0, -1, 0], [0.0, 1, 1], [-1.0, 0, 1], [1.0, 1, -1], [-1.0, 1, 0]])
    marked = torch.cat([targets, torch.eye(5)], dim=1)  # five more classes say how much of each image there is
    np.random.seed(0)
    collate = TrainCollate(8, MIXES[kind] | dict(mode=mode, prob=0.5))
    seen = Counter()
    for _ in range(60):
        images, target = collate(samples(*marked.tolist(), pixel=50))
        for i in range(4):
            weight = target[i, 3 + i].item()
            seen[weight == 1] += 1
            if weight == 1:
                assert target[i].equal(marked[i]) and images[i].unique().tolist() == [50 * (i + 1)]
                continue
            own, other = targets[i], targets[3 - i]
            mixed = torch.where((own < 0) | (other < 0), -1, weight * own + (1 - weight) * other)
            torch.testing.assert_close(target[i, :3], mixed)
        assert images[4].unique().tolist() == [250] and target[4].equal(marked[4])
    assert min(seen[True], seen[False]) > 40


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_weight_of_one_is_no_mixture(mode, monkeypatch):
    monkeypatch.setattr(np.random, 'beta', lambda a, b, size=None: 1.0 if size is None else np.ones(size))
    batch = samples([1.0, -1], [0.0, 1])
    images, target = TrainCollate(2, MIXES['both'] | dict(mode=mode))(batch)
    assert images[:, 0, 0, 0].tolist() == [10, 20] and target.tolist() == [[1, -1], [0, 1]]


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_without_unknown_labels_mixing_is_timms(mode):
    kwargs = MIXES['both'] | dict(mode=mode)
    theirs = FastCollateMixup(**kwargs, num_classes=3, label_smoothing=0.0, multi_label=True)
    targets = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).round().tolist()
    for seed in range(5):
        results = []
        for collate in (TrainCollate(3, kwargs), theirs):
            np.random.seed(seed)
            results.append(collate(samples(*targets)))
        assert results[0][0].equal(results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])


def test_mixing_can_end():
    loader = toy_loader(6, 6, workers=1, mixup=dict(mixup_alpha=1.0), mixup_ends=True)
    epoch_of(loader, 0)
    loader.loader.collate_fn.mixup = None
    assert sorted(indices_of(epoch_of(loader, 1))) == list(range(6))


# streams


class Stream(IterableDataset):
    class_names = ['a', 'b']

    def __iter__(self):
        return iter([])


@pytest.mark.parametrize('kwargs', [dict(oversample_thr=0.01), dict(aug_repeats=3)])
def test_streams_have_no_images_to_repeat(kwargs):
    with pytest.raises(ValueError, match='--oversample-thr and --aug-repeats'):
        create_train_loader(Stream(), CONFIG, image_of, 4, CPU, 0, **kwargs)
