"""Classes that pretrained weights know by name keep their rows."""

import json
import re

import pytest
import torch
from filler import fill_model, published_pvig
from safetensors.torch import save_file
from tiny import assert_close, create, images

import timm
from timm.models import get_pretrained_cfg, load_state_dict, save_for_hf
from timm.models._registry import _model_pretrained_cfgs as registry

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.class_names import COCO_CLASSES, VOC_CLASSES
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.data import demo
from gkgnet_timm.inference.device import start_process
from gkgnet_timm.inference.predictor import class_names_of
from gkgnet_timm.label_rows import init_labels_by_name
from gkgnet_timm.training.build import create_datasets, create_task

pytestmark = pytest.mark.usefixtures('no_curves')

NAMES = ['person', 'dining table', 'cat', 'dog', 'tv']
NEW = ['zebra', 'dog', 'diningtable', 'bird', 'Cat', 'TV_', 'fish']  # 1, 2, 4, 5 are known as 3, 1, 2, 4
PLACES = {1: 3, 2: 1, 4: 2, 5: 4}
HEADS = ('head_label', 'head_patch', 'label_embed')


def create_named(names=NAMES, **kwargs):
    overlay = dict(label_names=list(names))
    return create(num_classes=len(names), pretrained_cfg_overlay=overlay, **kwargs)


def clone(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@torch.no_grad()
def logits(model, batch):
    return model(batch)


def test_rows_of_known_classes_are_carried():
    """Rows of known classes and everything else are exactly as before, rows of new classes as a reset leaves them."""
    model, fresh = create_named(), create_named()
    before = clone(model)
    torch.manual_seed(5)
    fresh.reset_classifier(len(NEW))
    torch.manual_seed(5)
    assert init_labels_by_name(model, NEW) == ['dog', 'diningtable', 'Cat', 'TV_']
    assert model.num_classes == len(NEW)
    for key, value in model.state_dict().items():
        if not key.startswith(HEADS):
            assert torch.equal(value, before[key]), key
            continue
        for row in range(len(NEW)):
            expected = before[key][PLACES[row]] if row in PLACES else fresh.state_dict()[key][row]
            assert torch.equal(value[row], expected), (key, row)


def test_logits_of_known_classes_stay():
    """A label node sees patches and no other label node, so that its score is the same among other classes."""
    model, batch = create_named(), images(2, 64)
    before = logits(model, batch)
    init_labels_by_name(model, NEW)
    after = logits(model, batch)
    assert after.shape == (2, len(NEW))
    assert_close(after[:, list(PLACES)], before[:, list(PLACES.values())], 1e-12)


def test_other_order_permutes_the_logits():
    names = list(COCO_CLASSES)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0)).tolist()
    model, batch = create_named(names=names), images(2, 64)
    before, weights = logits(model, batch), clone(model)
    assert init_labels_by_name(model, [names[i] for i in order]) == [names[i] for i in order]
    assert_close(logits(model, batch), before[:, order], 1e-12)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key][order] if key.startswith(HEADS) else weights[key]), key
    init_labels_by_name(model, names)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    'name',
    [
        'resnet10t',  # a Linear
        'resnetv2_18',  # a 1x1 convolution
        'mobilenetv4_conv_small',
        'levit_128s',  # two heads, each with a norm before it that a reset builds anew
        'vit_tiny_patch16_224',
        'pvig_ti_224',
    ],
)
def test_any_timm_model(name):
    overlay = dict(label_names=NAMES)
    model = timm.create_model(name, num_classes=len(NAMES), pretrained_cfg_overlay=overlay)
    fill_model(model).eval()
    size = model.pretrained_cfg['input_size'][-1]
    batch = images(2, size).float()
    before = logits(model, batch)
    assert init_labels_by_name(model, NEW) == ['dog', 'diningtable', 'Cat', 'TV_']
    after = logits(model, batch)
    assert after.shape == (2, len(NEW))
    torch.testing.assert_close(after[:, list(PLACES)], before[:, list(PLACES.values())], rtol=1e-5, atol=1e-5)
    assert not model.training and not any(module.training for module in model.modules())


class Convolutional(torch.nn.Module):
    """A classifier of a 1x1 convolution without bias and an embedding, which a reset builds in float32, on the CPU."""

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = dict(classifier=('head', 'tokens'), num_classes=5, label_names=tuple(NAMES))
        self.trunk = torch.nn.Conv2d(3, 4, 1)
        self.reset_classifier(5)

    def reset_classifier(self, num_classes):
        self.num_classes = num_classes
        self.head = torch.nn.Conv2d(4, num_classes, 1, bias=False)
        self.tokens = torch.nn.Embedding(num_classes, 6)


def test_dtype_gradients_mode_and_shared_cfg_stay():
    model = Convolutional().to(torch.float64)
    model.head.eval()
    model.tokens.weight.requires_grad_(False)
    head, tokens, trunk, cfg = model.head.weight, model.tokens.weight, model.trunk.weight, model.pretrained_cfg
    init_labels_by_name(model, NEW)
    assert cfg['num_classes'] == 5 and cfg['label_names'] == tuple(NAMES)  # which may be of other models as well
    assert model.trunk.weight is trunk and model.head.weight.shape == (7, 4, 1, 1)
    for old, new in ((head, model.head.weight), (tokens, model.tokens.weight)):
        assert new.dtype == torch.float64 and new.requires_grad == old.requires_grad
        assert torch.equal(new[list(PLACES)], old[list(PLACES.values())])
    assert model.training and model.tokens.training and not model.head.training
    assert model.head.weight.is_leaf

    model = create_named(dtype=torch.bfloat16).train()
    model.stages.eval().requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    init_labels_by_name(model, NEW)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == frozen


def test_cfg_is_the_models_own():
    model, other = (timm.create_model('gkgnet_576', img_size=64, dims=(8, 16, 40, 64)) for _ in range(2))
    init_labels_by_name(model, VOC_CLASSES)
    assert model.pretrained_cfg['num_classes'] == 20 and model.pretrained_cfg['label_names'] == list(VOC_CLASSES)
    assert model.default_cfg is model.pretrained_cfg and class_names_of(model) == list(VOC_CLASSES)
    assert class_names_of(other) == list(COCO_CLASSES)
    cfg = get_pretrained_cfg('gkgnet_576')
    assert cfg.num_classes == 80 and tuple(cfg.label_names) == COCO_CLASSES


def test_export_has_the_new_classes(tmp_path):
    model = create_named(dtype=torch.float32)
    init_labels_by_name(model, NEW)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert loaded.num_classes == len(NEW) and class_names_of(loaded) == NEW
    batch = images(1, 64).float()
    assert torch.equal(logits(loaded, batch), logits(model, batch))


@pytest.mark.parametrize(
    'classes, source, expected',
    [
        (VOC_CLASSES, COCO_CLASSES, 16),  # aeroplane, motorbike, sofa and tvmonitor have other names there
        (['cat', 'Cat'], ['CAT', 'cat'], {'cat': 1, 'Cat': 0}),
        (['Cat', 'cat', 'x'], ['cat'], {'cat': 0}),
        (['Cat'], ['CAT', 'cat'], "Class 'Cat' could be any of ['CAT', 'cat'] of the pretrained weights"),
        (['hot dog', 'hot-dog'], ['hotdog'], "Class 'hot dog', 'hot-dog' could be any of ['hotdog']"),
        (['crane'], ['crane', 'x', 'crane'], "Class 'crane' could be any of ['crane', 'crane']"),
        (['a', 'b', 'a'], ['a'], "names class 'a' twice"),
        ([], ['a'], 'no class'),
        (['eel'], ['a', 'b'], {}),
    ],
)
def test_names(classes, source, expected):
    model = Convolutional()
    model.reset_classifier(len(source))
    before = model.tokens.weight
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=re.escape(expected)):
            init_labels_by_name(model, classes, source)
        assert model.tokens.weight is before
        return
    carried = init_labels_by_name(model, classes, source)
    if isinstance(expected, int):
        assert len(carried) == expected
        return
    assert set(carried) == set(expected)
    for name, row in expected.items():
        assert torch.equal(model.tokens.weight[classes.index(name)], before[row])


def test_errors():
    def fails(message, model, *args):
        before = clone(model)
        with pytest.raises(ValueError, match=message) as caught:
            init_labels_by_name(model, *args)
        assert '\n' not in str(caught.value) and model.state_dict().keys() == before.keys()

    fails('have no names.*source_names', create(), NEW)
    fails('has 5 classes, but 2 names', create(), NEW, ['a', 'b'])
    fails('no names', torch.nn.Linear(2, 2), NEW)
    fails('has 0 classes', torch.nn.Linear(2, 2), NEW, NAMES)
    for classifier in (None, 'nope', ('trunk', 'head')):
        model = Convolutional()
        model.pretrained_cfg['classifier'] = classifier
        fails("'classifier' of the model's cfg", model, NEW)


# in training

TINY = ['--img-size', '32', '-b', '8', '--epochs', '1', '-j', '0', '--device', 'cpu']
TINY += ['--model-kwargs', 'depths=(1, 1, 1, 1)', 'dims=(8, 16, 24, 32)', 'k=3', 'label_k=3']
SHAPES = list(demo.SHAPES)


@pytest.fixture
def run(tmp_path, small_demo):
    """Train in the folder of an experiment."""

    def run(experiment, *flags):
        train(['-c', 'demo', *TINY, '--output', str(tmp_path), '--experiment', experiment, *flags])
        return tmp_path / experiment / 'last.pth.tar'

    return run


@pytest.fixture
def other_classes(tmp_path, run, small_demo):
    """Flags of the demo images as a table of other classes: two of the shapes and a new one, in another order."""
    run('source')
    folder = small_demo / 'train'
    files = sorted(path.name for path in folder.glob('*.*'))
    known = [SHAPES[5], SHAPES[1].upper()]
    classes = [known[0], 'cloud', known[1]]
    for split, part in (('train', files[:6]), ('val', files[6:])):
        rows = [f'{name},{i % 2},{(i + 1) % 2},{i % 3 % 2}' for i, name in enumerate(part)]
        (tmp_path / f'{split}.csv').write_text('\n'.join([f'image,{",".join(classes)}', *rows]))
    flags = ['--dataset', 'csv', '--data-dir', str(folder), '--init-labels-by-name']
    for split in ('train', 'val'):
        flags += [f'--{split}-split', str(tmp_path / f'{split}.csv')]
    return flags, classes, dict(zip(known, (5, 1)))


def create_started(flags):
    """The model that training would start from, in evaluation mode."""
    config, _ = parse_flags(['-c', 'demo', *TINY, *flags])
    process = start_process(config.device)
    train_set, _ = create_datasets(config, process, None)
    return create_task(config, train_set, process).get_trainable_module().double().eval()


@pytest.mark.parametrize('model', ['gkgnet_ti_224', 'resnet10t'])
def test_training_starts_with_what_is_known(tmp_path, run, other_classes, model, capsys):
    flags, classes, places = other_classes
    own = ['--model', model, '--model-kwargs', '--epochs', '1'] if model == 'resnet10t' else []
    checkpoint = run(model, *own)
    source = create_started(own)
    source.load_state_dict(load_state_dict(str(checkpoint)))
    flags = [*flags, *own, '--pretrained-path', str(checkpoint)]
    capsys.readouterr()
    started = create_started(flags)
    known = ', '.join(places)
    assert f'Rows of 2 of 3 classes are those of the pretrained weights: {known}\n' in capsys.readouterr().out
    batch = images(2, 32)
    assert_close(logits(started, batch)[:, [0, 2]], logits(source, batch)[:, list(places.values())], 1e-12)
    run('target', *flags)
    names = torch.load(tmp_path / 'target' / 'last.pth.tar', weights_only=False)['args']['class_names']
    assert names == classes


def test_resume_does_not_look_at_names(tmp_path, run, other_classes, capsys):
    flags, _, _ = other_classes
    checkpoint = tmp_path / 'source' / 'last.pth.tar'
    target = run('target', *flags, '--pretrained-path', str(checkpoint))
    assert 'Rows of 2' in capsys.readouterr().out
    train(['--resume', str(target), '--epochs', '2'])
    printed = capsys.readouterr().out
    assert 'Rows of' not in printed and 'Resumed after epoch 1' in printed


def test_weights_that_name_their_classes(tmp_path, run, other_classes, monkeypatch, capsys):
    """config.json beside a safetensors file; a cfg of the class count of the file; a cfg of pretrained weights."""
    flags, _, _ = other_classes
    weights = load_state_dict(str(tmp_path / 'source' / 'last.pth.tar'))
    folder = tmp_path / 'export'
    folder.mkdir()
    file = folder / 'model.safetensors'
    save_file(weights, file)
    path = [*flags, '--pretrained-path', str(file)]
    with pytest.raises(ValueError, match='model.safetensors.*do not name their classes.*config.json'):
        create_started(path)
    for config in (dict(label_names=SHAPES), dict(pretrained_cfg=dict(label_names=SHAPES))):
        (folder / 'config.json').write_text(json.dumps(config))
        reference = create_started(path).state_dict()
    assert torch.equal(reference['head_label.weight'][2].float(), weights['head_label.weight'][1])
    for content in ('no json', '[]'):
        (folder / 'config.json').write_text(content)
        with pytest.raises(ValueError, match='config.json. beside the weights is not'):
            create_started(path)
    (folder / 'config.json').unlink()

    cfg = get_pretrained_cfg('gkgnet_ti_224')
    cfg.num_classes, cfg.label_names = len(SHAPES), SHAPES
    monkeypatch.setitem(registry, 'gkgnet_ti_224', cfg)
    assert torch.equal(create_started(path).state_dict()['head_label.weight'], reference['head_label.weight'])
    torch.save(
        {key: value for key, value in weights.items() if not key.startswith(('label_', 'head_'))},
        file.with_suffix('.pth'),
    )
    with pytest.raises(ValueError, match="model.pth' are of a trunk, without a classifier: leave out --init-labels"):
        create_started([*flags, '--pretrained-path', str(file.with_suffix('.pth'))])
    cfg.file, cfg.hf_hub_id = str(file), None
    capsys.readouterr()
    started = create_started([*flags, '--pretrained']).state_dict()
    assert torch.equal(started['head_patch.weight'][::2], reference['head_patch.weight'][::2])
    assert 'Rows of 2 of 3' in capsys.readouterr().out


def test_errors_of_training(tmp_path, run, capsys):
    checkpoint = run('source')
    (tmp_path / 'a.csv').write_text('image,eel\n1.png,1\n')
    (tmp_path / 'b.csv').write_text('image,eel\n2.png,1\n')
    torch.save(published_pvig(), tmp_path / 'pvig.pth')
    csv = ['--dataset', 'csv', '--data-dir', str(tmp_path), '--train-split', 'a.csv', '--val-split', 'b.csv']
    csv += ['--on-bad-image', 'skip']
    by_name = ['train', '-c', 'demo', *TINY, '--output', str(tmp_path), '--init-labels-by-name']
    path = ['--pretrained-path', str(checkpoint)]
    cases = [
        (by_name, '--init-labels-by-name needs pretrained weights.*--pretrained-path FILE'),
        (
            [*by_name, *path, *csv],
            r'none of the 1 classes \(eel, ...\) is one of the 8 of the pretrained.*leave it out',
        ),
        ([*by_name, '--model', 'resnet10t', '--model-kwargs', *path], "'resnet10t' from .*last.pth.tar"),
        (
            [*by_name, '--model-kwargs', '--pretrained-path', str(tmp_path / 'pvig.pth')],
            'pvig.pth.* do not name.* gkgnet_576',
        ),
        ([*by_name, '--pretrained-path', 'nope.pth'], 'nope.pth'),
    ]
    for argv, message in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(argv)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and re.search(message, error), (argv, error)
