"""What a label or a patch chose, of models whose choices are known, in pixels of the original."""

import io
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import create, nodes

import timm

import gkgnet_timm
from gkgnet_timm.data import BadImageError
from gkgnet_timm.explanation.explain import explain, has_label_graph
from gkgnet_timm.graph.similarity import neighbor_similarity

KEYS = ['label', 'stage', 'group', 'rank', 'row', 'column', 'box', 'similarity']
ORIENTATION = 0x0112


def bright_square(size, box):
    """A black image of a width and height with a white box."""
    image = Image.new('RGB', size, 'black')
    image.paste('white', tuple(box))
    return image


def ramps(size):
    """An image whose red says how far right a pixel is, and whose green how far down."""
    width, height = size
    red, green = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray(np.dstack([255 * red, 255 * green, 0 * red]).round().astype(np.uint8))


def with_known_choices(img_size, choose, **cfg):
    """A model whose label nodes choose, in every stage, what a function says of the pooled image that it sees."""
    model = create(num_classes=3, img_size=img_size, dtype=torch.float32)
    model.pretrained_cfg.update(label_names=('cat', 'dog', 'fox'), input_size=(3, *model.stem.img_size), **cfg)
    model.pretrained_cfg.update(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    seen, pooled = [], []
    model.register_forward_pre_hook(lambda module, args: seen.append((args[0] + 1) / 2))

    def search(x, y, position):
        stride = round((seen[-1][0, 0].numel() / y.shape[1]) ** 0.5)
        pooled.append(F.avg_pool2d(seen[-1], stride)[0])
        return choose(pooled[-1]).expand(1, 2, x.shape[1], -1)

    for stage in model.label_stages:
        stage.blocks[0].grapher.graph_conv.search = search
    return model, pooled


def choosing_the_brightest(img_size, **cfg):
    def brightest(pooled):
        return pooled.mean(0).flatten().argsort(descending=True, stable=True)[:4]

    return with_known_choices(img_size, brightest, **cfg)[0]


@pytest.mark.parametrize('crop_mode, crop_pct', [('squash', 1.0), ('squash', 0.8), ('center', 0.9), ('border', 1.0)])
@pytest.mark.parametrize('size', [(200, 100), (91, 203), (500, 333)])
@pytest.mark.parametrize('img_size', [(96, 96), (96, 128)])
def test_boxes_are_in_pixels_of_the_original(size, img_size, crop_mode, crop_pct):
    def some(pooled):
        return torch.randperm(pooled[0].numel(), generator=torch.Generator().manual_seed(1))[:6]

    model, pooled = with_known_choices(img_size, some, crop_mode=crop_mode, crop_pct=crop_pct)
    explanation = explain(model, ramps(size), topk=1)
    assert explanation.image.size == size and len(explanation.patches) == 4 * 2 * 6
    assert [grid.cell for grid in explanation.grids] == [(4, 4), (8, 8), (16, 16), (32, 32)]
    inside = 0
    for chosen in explanation.patches:
        x0, y0, x1, y1 = chosen.box
        assert 0 <= x0 <= x1 <= size[0] and 0 <= y0 <= y1 <= size[1]
        if 0 < x0 and 0 < y0 and x1 < size[0] and y1 < size[1]:  # that is, nothing was clipped
            # what the model saw there says where that is
            x, y, _ = (pooled[chosen.stage - 1][:, chosen.row, chosen.column] * torch.tensor([*size, 0])).tolist()
            assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((x, y), abs=0.012 * max(size))
            inside += 1
    assert inside >= 8


def test_cells_have_the_size_of_the_preprocessing():
    box = explain(choosing_the_brightest((96, 96)), bright_square((192, 480), [0, 0, 20, 20]), topk=1).patches[0].box
    assert box == [0, 0, 8, 20]  # 4 x 4 pixels of the model, of which 96 are 192 and 480 of the image


def test_patches_in_the_padding_have_no_area():
    model = choosing_the_brightest((96, 96), crop_mode='border', crop_pct=1.0)
    patches = explain(model, Image.new('RGB', (200, 50), 'black'), topk=1, stages=[4]).patches
    # the padding of the mean colour is brighter than the black image between its two bars
    assert [(c.row, c.box) for c in patches if c.group == 1][0] == (0, [0, 0, pytest.approx(200 / 3), 0])
    with pytest.raises(ValueError, match='Patch 0,3 is in the padding, the image has rows 9 to 14 and columns 0 to 23'):
        explain(model, Image.new('RGB', (200, 50)), patch=(0, 3))


def test_a_photograph_that_lies_on_its_side(tmp_path):
    image = bright_square((120, 60), [0, 0, 20, 20])
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise: the square gets to the right
    image.save(tmp_path / 'a.png', exif=exif)
    explanation = explain(choosing_the_brightest((96, 96)), tmp_path / 'a.png', topk=1)
    assert explanation.image.size == (60, 120)
    x0, y0, x1, y1 = explanation.patches[0].box
    assert x0 >= 40 and y1 <= 20


def test_padded_by_the_model():
    model = create(num_classes=2, img_size=80, dynamic_img_pad=True, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 80, 80))
    grids = explain(model, Image.new('RGB', (80, 80)), topk=1).grids
    assert [(grid.rows, grid.cell) for grid in grids] == [(24, (4, 4)), (12, (8, 8)), (6, (16, 16)), (3, (32, 32))]


def test_maps_of_any_number_and_stride():
    model = timm.create_model('gkgnet_backbone', backbone='vit_tiny_patch16_224', img_size=64, num_classes=3)
    explanation = explain(model.eval(), Image.new('RGB', (50, 70)), topk=2)
    assert [(grid.stage, grid.rows, grid.cell) for grid in explanation.grids] == [
        (i, 4, (16, 16)) for i in (1, 2, 3, 4)
    ]
    model = timm.create_model('gkgnet_backbone', backbone='resnet10t', out_indices=(2,), num_classes=3)
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, 90, 90), crop_pct=1.0)
    explanation = explain(model.eval(), Image.new('RGB', (90, 90)), topk=2)
    assert [tuple(grid) for grid in explanation.grids] == [(1, 12, 12, (8, 8))]
    assert max(chosen.box[2] for chosen in explanation.patches) <= 90
    with pytest.raises(ValueError, match='needs a ViG trunk, and ResNet is none'):
        explain(model, Image.new('RGB', (90, 90)), patch=(0, 0))


def test_choices_are_those_of_the_label_graph():
    model = create(num_classes=3, num_groups=2, label_depth=2, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    image = Image.effect_noise((64, 64), 90).convert('RGB')
    explanation = explain(model.train(), image, labels=['class 2', 0])
    assert model.training  # as it was
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    config = timm.data.resolve_data_config(model=model)
    pixels = (pixels - torch.tensor(config['mean']).view(3, 1, 1)) / torch.tensor(config['std']).view(3, 1, 1)
    with torch.no_grad():
        graph = model.eval().forward_graph(pixels)
    torch.testing.assert_close(torch.from_numpy(explanation.scores), graph.logits[0].sigmoid())
    assert [label.label for label in explanation.labels] == ['class 2', 'class 0']
    expected = []
    for label in (2, 0):
        for stage, (blocks, patches) in enumerate(zip(graph.neighbors, graph.patch_maps), 1):
            for group, indices in enumerate(blocks[-1][0, :, label].tolist(), 1):
                for rank, index in enumerate(indices, 1):
                    row, column = divmod(index, patches.shape[3])
                    expected.append((f'class {label}', stage, group, rank, row, column))
    assert [tuple(chosen)[:6] for chosen in explanation.patches] == expected
    rows = explanation.to_json()
    assert len(rows) == len(expected) and all(list(row) == KEYS for row in rows)
    # the last node of a stage and its patches, in the layers that the search is about
    block, nodes_before = model.label_stages[1].blocks[-1], model.label_stages[1].proj(graph.label_nodes[0])
    with torch.no_grad():
        query = block.grapher.fc1(nodes_before.transpose(1, 2).unsqueeze(2))[0, :, 0]  # (1, L, D) -> (D, L)
    half = query.shape[0] // 2
    for chosen in explanation.patches:
        if chosen.stage == 2:
            part = slice(half * (chosen.group - 1), half * chosen.group)
            cosine = F.cosine_similarity(
                query[part, int(chosen.label[-1])], graph.patch_maps[1][0, part, chosen.row, chosen.column], dim=0
            )
            assert chosen.similarity == pytest.approx(cosine.item(), abs=1e-5)


def test_similarity_is_a_cosine_in_the_channels_of_a_group():
    x, y = nodes(1, 2, 6), nodes(1, 5, 6, seed=1)
    neighbors = torch.tensor([[[[0, 3], [4, 1]], [[2, 2], [1, 0]]]])  # (B, G, N, k)
    found = neighbor_similarity(x, y, neighbors)
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        for node in range(2):
            for rank, index in enumerate(neighbors[0, group, node].tolist()):
                expected = F.cosine_similarity(x[0, node, part], y[0, index, part], dim=0)
                torch.testing.assert_close(found[0, group, node, rank], expected)


@pytest.mark.parametrize('name, stages', [('gkgnet_ti_224', 4), ('pvig_ti_224', 4), ('vig_ti_224', 4)])
def test_neighbours_of_a_patch(name, stages):
    model = create(name, img_size=96, num_classes=3, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 96, 96), crop_pct=1.0, crop_mode='squash')
    explanation = explain(model, Image.effect_noise((192, 96), 90).convert('RGB'), patch=(1, 2))
    assert len({chosen.stage for chosen in explanation.patches}) == len(explanation.centers) == stages
    assert {chosen.label for chosen in explanation.patches} == {None} and not explanation.labels
    cell = 16 if name.startswith('vig') else 4
    assert explanation.centers[0] == [2 * 2 * cell, cell, 3 * 2 * cell, 2 * cell]
    for center, layer in zip(explanation.centers, (0, 4, 7, 11) if name.startswith('vig') else (0, 1, 2, 3)):
        x, y = 2 * 2.5 * cell, 1.5 * cell  # the middle of the patch in the original
        assert center[0] <= x < center[2] and center[1] <= y < center[3], layer
    shown = (1, 5, 8, 12) if name.startswith('vig') else (1, 2, 3, 4)
    assert tuple(grid.stage for grid in explanation.grids) == shown
    for grid in explanation.grids:
        assert grid.cell[0] * grid.rows == 96
        of_stage = [chosen for chosen in explanation.patches if chosen.stage == grid.stage]
        assert {chosen.group for chosen in of_stage} == ({1, 2} if name.startswith('gkgnet') else {1})
    if name.startswith('gkgnet'):  # pooled: patches choose larger cells in the first stages
        assert [grid.cell[0] for grid in explanation.grids] == [16, 16, 16, 32]
    with pytest.raises(ValueError, match=r'Patch 99,0: the first map has rows 0 to \d+, columns 0 to \d+'):
        explain(model, Image.new('RGB', (9, 9)), patch=(99, 0))


def test_the_patch_graph_of_the_trunk():
    model = create(num_classes=3, img_size=64)
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        graph, plain = model.forward_graph(pixels, patches=True), model.forward_graph(pixels)
    assert torch.equal(graph.logits, plain.logits) and plain.patch_neighbors is None
    for stage, blocks, nodes_, candidates in zip(
        model.stages, graph.patch_neighbors, (256, 64, 16, 4), (16, 16, 16, 4)
    ):
        assert len(blocks) == len(stage.blocks)
        for neighbors in blocks:
            assert neighbors.shape[:3] == (2, 2, nodes_) and neighbors.max() < candidates
    assert not any(block._forward_hooks for stage in model.stages for block in stage.blocks)
    with pytest.raises(ValueError, match='needs a ViG trunk'):
        timm.create_model('gkgnet_backbone', backbone='resnet10t').forward_graph(pixels, patches=True)


def test_which_labels_are_explained():
    model = choosing_the_brightest((64, 64))
    image = bright_square((64, 64), [0, 0, 9, 9])

    def shown(**options):
        return [label.label for label in explain(model, image, **options).labels]

    scores = explain(model, image).scores
    order = [('cat', 'dog', 'fox')[i] for i in np.argsort(-scores)]
    middle = float(np.sort(scores)[1])
    assert shown(threshold=middle) == order[:2]
    assert shown(threshold=0.9999) == order[:1]  # none reaches it: the best
    assert shown(topk=9) == order and shown(topk=1) == order[:1]
    assert shown(labels=['fox', 'cat', 2]) == ['fox', 'cat']
    assert shown(labels='dog') == shown(labels=1) == shown(labels=np.array([1])) == ['dog']
    model.thresholds = [0.9999, 0.0001, 0.0001]  # of the weights
    assert shown() == [name for name in order if name != 'cat']
    assert [label.threshold for label in explain(model, image, labels=['cat']).labels] == [pytest.approx(0.9999)]
    assert shown(labels=['red'], class_names=['red', 'green', 'blue']) == ['red']


def test_similarity_of_pooled_candidates():
    model = create(num_classes=3, img_size=96, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 96, 96))
    explanation = explain(model, Image.effect_noise((96, 96), 90).convert('RGB'), patch=(5, 6), stages=[1])
    block, before = model.stages[0].blocks[-1], []
    handle = block.register_forward_pre_hook(lambda module, args: before.append(args[0]))
    explain(model, explanation.image, topk=1)
    handle.remove()
    with torch.no_grad():
        nodes_ = block.grapher.fc1(before[0].clone())[0]
    pooled, half = F.avg_pool2d(nodes_, 4), nodes_.shape[0] // 2
    for chosen in explanation.patches:
        part = slice(half * (chosen.group - 1), half * chosen.group)
        cosine = F.cosine_similarity(nodes_[part, 5, 6], pooled[part, chosen.row, chosen.column], dim=0)
        assert chosen.similarity == pytest.approx(cosine.item(), abs=1e-5)


def test_scores_and_pixels_are_those_of_predict(tmp_path):
    model = create(num_classes=3, dtype=torch.float32)
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    seen = []
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for i, size in enumerate([(50, 70), (64, 64), (300, 201)]):
        file = tmp_path / f'{i}.png'
        Image.effect_noise(size, 90).convert('RGB').save(file)
        for amp in (False, True):
            ((_, scores, _),) = gkgnet_timm.predict_images(model, [file], device='cpu', amp=amp)
            np.testing.assert_array_equal(explain(model, file, topk=1, amp=amp).scores, scores)
            assert torch.equal(*seen[-2:])
    handle.remove()


def test_another_thread_may_use_the_model():
    model = create(num_classes=3, dtype=torch.float32)
    images_ = [Image.effect_noise((64, 64), 90).convert('RGB') for _ in range(6)]
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    expected = [explain(model, image, topk=3).to_json() for image in images_]
    stop = threading.Event()

    def disturb():
        with torch.no_grad():
            while not stop.is_set():
                model(torch.rand(1, 3, 64, 64))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(3):
            assert [explain(model, image, topk=3).to_json() for image in images_] == expected
    finally:
        stop.set()
        thread.join()


def test_modes_of_parts_are_restored():
    model = choosing_the_brightest((64, 64)).train()
    model.stem.eval()
    before = [module.training for module in model.modules()]
    explain(model, Image.new('RGB', (64, 64)), topk=1)
    assert [module.training for module in model.modules()] == before and model.training and not model.stem.training


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(labels=[]), 'labels is empty'),
        (dict(class_names=['a', 'b']), 'class_names has 2 names, the model has 3 classes'),
        (dict(class_names=['a', 'b', 'a'], topk=3), "Two classes are named 'a'"),
        (dict(threshold=7), 'from 0 to 1, got 7'),
        (dict(threshold=float('nan')), 'from 0 to 1'),
        (dict(threshold=[0.1, 0.2]), 'one for each of 3 classes'),
        (dict(labels=['dgo']), "No class is named 'dgo': 'dog'?"),
        (dict(labels=['12345']), "No class is named '12345': the classes are cat, dog, fox"),
        (dict(labels=[3]), 'No class 3: there are 3'),
        (dict(topk=0), 'topk must be at least 1'),
        (dict(topk=1, labels=['cat']), 'one of labels, topk and patch'),
        (dict(stages=[5]), 'Stage 5: the model has stages 1 to 4'),
        (dict(stages=[]), 'No stages'),
    ],
)
def test_wrong_choices(options, message):
    with pytest.raises(ValueError, match=message.replace('?', r'\?')):
        explain(choosing_the_brightest((64, 64)), Image.new('RGB', (64, 64)), **options)


def test_models_without_a_label_graph():
    image = Image.new('RGB', (64, 64))
    for model in (timm.create_model('resnet10t'), create('pvig_ti_224'), create(num_classes=0)):
        assert not has_label_graph(model)
        with pytest.raises(ValueError, match='has no label graph to explain: take a GKGNet'):
            explain(model, image)
    with pytest.raises(ValueError, match='needs a ViG trunk, and ResNet is none'):
        explain(timm.create_model('resnet10t'), image, patch=(0, 0))


def png_of_noise():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, format='png')
    return file.getvalue()


def test_what_cannot_be_explained(tmp_path):
    model = choosing_the_brightest((64, 64))
    (tmp_path / 'a.jpg').write_text('no image')
    with pytest.raises(BadImageError, match=r"Cannot read image '.*a.jpg'"):
        explain(model, tmp_path / 'a.jpg')
    with pytest.raises(BadImageError, match='Cannot read the image'):
        (tmp_path / 'b.png').write_bytes(png_of_noise()[:900])
        explain(model, Image.open(tmp_path / 'b.png'))
    model.head_patch.bias.data[1] = torch.nan
    with pytest.raises(ValueError, match='not finite'):
        explain(model, Image.new('RGB', (64, 64)))


def test_grey_models_and_half_precision():
    model = create(num_classes=3, in_chans=1, img_size=64, dtype=torch.bfloat16)
    model.pretrained_cfg.update(input_size=(1, 64, 64), mean=(0.5,), std=(0.5,))
    explanation = gkgnet_timm.explain(model, Image.effect_noise((64, 64), 90), topk=1)
    assert explanation.image.mode == 'RGB' and len(explanation.patches) > 0
