"""Files of exported models: what they compute, what lies beside them, and what is refused."""

import contextlib
import copy
import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import save_image
from PIL import Image
from tiny import fill_model
from torch import nn
from torch.nn.functional import pad
from torchvision import transforms

import timm
from timm.data import create_transform

from gkgnet_timm.export import check, export
from gkgnet_timm.export.export import export_model
from gkgnet_timm.export.files import sidecars, six_lines
from gkgnet_timm.inference.predictor import predict_images
from gkgnet_timm.inference.program import load_program
from gkgnet_timm.runtime import UserError
from gkgnet_timm.weights.preprocessing import resolve_preprocessing

onnx, ort = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.filterwarnings('ignore')  # of PyTorch, for whoever exports

BESIDE = {'README.md', 'categories.json', 'config.json', 'preprocess.json', 'selected_tags.csv', 'thresholds.csv'}
THRESHOLDS = [0.1, 0.25, 0.5, 0.75, 0.123456]
NAMES = ['a "b", c', 'é']
OTHER_SIZES = ((96, 64), (64, 128))


def create_backbone(**kwargs):
    """The label graph on the smallest trunk, for a short export. Its last map has four patches at 64 px."""
    torch.manual_seed(0)
    options = dict(backbone='test_resnet', out_indices=(-2, -1), label_k=5, num_classes=5)
    model = timm.create_model('gkgnet_backbone', **options, **kwargs)
    model.thresholds = THRESHOLDS
    return model.train()


def create_plain(name='test_resnet', **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2, **kwargs).eval()


def session_of(path):
    return ort.InferenceSession(path, providers=['CPUExecutionProvider'])


def opened(path):
    """Runs a file with nothing of this package."""
    if path.suffix == '.pt2':
        return torch.export.load(path).module()
    session = session_of(path)
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, map(torch.from_numpy, session.run(names, {'input': x.numpy()}))))


def images(batch, height=64, width=64, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def eager_outputs(model, x, dtype=torch.float64):
    """What files are to give, in float64, and by a way of its own."""
    model = model.eval().to(dtype)
    with torch.no_grad():
        if hasattr(model, 'forward_graph'):
            graph = model.forward_graph(x.to(dtype))
            neighbors = torch.stack(
                [pad(i, (0, 5 - i.shape[-1]), value=-1) for stage in graph.neighbors for i in stage], 1
            )
        features = model.forward_features(x.to(dtype))
        logits, embedding = model(x.to(dtype)), model.forward_head(features, pre_logits=True)
    outputs = dict(prediction=logits.sigmoid(), logits=logits, embedding=embedding)
    return dict(outputs, neighbors=neighbors) if hasattr(model, 'forward_graph') else outputs


def check_outputs(given, expected, tolerance=1e-4):
    for name, value in given.items():
        if name == 'neighbors':
            assert value.dtype == torch.int64 and torch.equal(value, expected[name])
        else:
            assert value.dtype == torch.float32 and value.shape == expected[name].shape, name
            torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=tolerance)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for i in range(3):
        save_image(folder / f'{i}.png', i, (64, 64))
    return folder


@pytest.fixture(scope='module')
def exported(tmp_path_factory, photos):
    """A folder with neighbours, and the model it is of."""
    model, folder = create_backbone(), tmp_path_factory.mktemp('exported') / 'new' / 'folder'
    options = dict(img_size=64, half=True, int8=True, neighbors=True, calibration_images=photos)
    return folder, model, export_model(model, folder, **options)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A folder of a timm model in half precision, with names and thresholds that are given."""
    model, folder = create_plain(dtype=torch.bfloat16), tmp_path_factory.mktemp('plain')
    export_model(model, folder, formats=['pt2'], img_size=64, class_names=NAMES, thresholds=[0.2, 0.3])
    assert next(model.parameters()).dtype == torch.bfloat16
    return folder


@pytest.fixture(scope='module')
def pyramid(tmp_path_factory):
    """A GKGNet with a block in each stage. `img_size` is that of the model itself."""
    options = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3, num_classes=5, img_size=64)
    model, folder = fill_model(timm.create_model('gkgnet_ti_224', **options)), tmp_path_factory.mktemp('pyramid')
    return folder, model, export_model(model, folder, formats=['onnx'])


@pytest.fixture(scope='module')
def any_size(tmp_path_factory):
    """A ViG, whose positions are of a size: the hardest model for files that take any."""
    folder = tmp_path_factory.mktemp('any_size')
    model = fill_model(timm.create_model('vig_ti_224', depth=1, embed_dim=16, k=3, num_classes=5, img_size=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, 'OTHER_SIZES', OTHER_SIZES)
        return folder, model, export_model(model, folder, dynamic_size=True)


def test_files_and_their_report(exported):
    folder, _, files = exported
    names = ['model.onnx', 'model_fp16.onnx', 'model_int8.onnx', 'model.pt2']
    assert {path.name for path in folder.iterdir() if not path.name.startswith('.')} == {*names, *BESIDE}
    assert [file.path for file in files] == [folder / name for name in names]
    for path, seconds, size, nodes, difference in files:
        assert size == path.stat().st_size and 0 < seconds < 300
        assert (nodes is None) == (path.suffix == '.pt2')
        assert nodes is None or nodes == len(onnx.load(path).graph.node)
        assert difference.labels > 0.7 and (difference.is_right or 'int8' in path.name)
    text = (folder / 'README.md').read_text()
    assert all(f'| {name} |' in text for name in names) and 'class' in text


def test_inputs_and_outputs_by_name(exported):
    folder, model, _ = exported
    session = session_of(folder / 'model.onnx')
    (given,) = session.get_inputs()
    assert given.name == 'input' and given.type == 'tensor(float)'
    assert isinstance(given.shape[0], str) and given.shape[1:] == [3, 64, 64]
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert list(shapes) == ['prediction', 'logits', 'embedding', 'neighbors']
    assert all(isinstance(shape[0], str) for shape in shapes.values())
    assert shapes['prediction'][1:] == shapes['logits'][1:] == [5] and shapes['embedding'][1:] == [model.pooled_dim]


@pytest.mark.parametrize('name', ['model.onnx', 'model.pt2'])
def test_any_batch(exported, name):
    model, run = create_backbone(), opened(exported[0] / name)
    for batch in (1, 2, 5):
        x = images(batch, seed=batch)
        given = run(x)
        assert set(given) == {'prediction', 'logits', 'embedding', 'neighbors'}
        assert given['neighbors'].shape == (batch, len(model.label_dims), model.num_groups, 5, 5)
        check_outputs(given, eager_outputs(model, x))
    assert (given['neighbors'][:, -1, :, :, 4] == -1).all() and (given['neighbors'][:, :-1] >= 0).all()


@pytest.mark.parametrize('name', ['model.onnx', 'model.pt2'])
def test_another_size_is_refused(exported, name):
    program = load_program(exported[0] / name)
    with pytest.raises(ValueError, match=rf'{name}.*takes images of \[64, 64\], got \[64, 96\]'):
        program(images(1, 64, 96))
    with pytest.raises(ValueError, match='64 x 64 alone.*--dynamic-size'):
        load_program(exported[0] / name, 96)
    assert load_program(exported[0] / name, 64)(images(1)).shape == (1, 5)


def test_pyramid(pyramid):
    """Its blocks, labels, positions and pooled candidates; neighbours are not an output unless asked for."""
    folder, model, files = pyramid
    run, model = opened(folder / 'model.onnx'), model.eval()
    for batch in (1, 2, 5):
        given, expected = run(images(batch)), eager_outputs(copy.deepcopy(model), images(batch))
        assert set(given) == {'prediction', 'logits', 'embedding'}
        # neighbours that are as near in float32 may move what follows, hence the median
        for name, value in given.items():
            assert value.shape == expected[name].shape and (value - expected[name]).abs().median() < 1e-5, name
    assert files[0].difference.neighbors > 0.95 and {path.name for path in folder.iterdir()} >= BESIDE
    assert not (folder / 'model.pt2').exists() and not (folder / 'neighbors.onnx').exists()


def test_few_nodes(pyramid):
    """Of all stages, with a block in each; 38 more in each other block make 724 of a published model.

    The oldest PyTorch that writes ONNX leaves 30 more.
    """
    assert pyramid[2][0].nodes <= 460
    operators = [node.op_type for node in onnx.load(pyramid[0] / 'model.onnx').graph.node]
    assert 'Loop' not in operators and 'Scan' not in operators and 'BatchNormalization' not in operators
    assert operators.count('TopK') == 8  # one for each block


@pytest.mark.parametrize('name', ['model.onnx', 'model.pt2'])
def test_any_size(any_size, name):
    folder, model, _ = any_size
    run = opened(folder / name)
    for batch, height, width in ((1, 64, 64), (2, 64, 96), (5, 160, 64), (1, 96, 128)):
        x = images(batch, height, width)
        given, expected = run(x), eager_outputs(copy.deepcopy(model), x)
        assert set(given) == {'prediction', 'logits', 'embedding'}
        for key, value in given.items():
            assert (value - expected[key]).abs().median() < 1e-5, (key, batch, height, width)
    program = load_program(folder / name, 96)
    assert program.is_dynamic and tuple(program.pretrained_cfg['input_size']) == (3, 96, 96)


def test_half_and_int8(exported):
    """Weights are smaller, and what is selected from was not rounded."""
    folder, model, _ = exported
    for name in ('model_fp16.onnx', 'model_int8.onnx'):
        session = session_of(folder / name)
        (given,) = session.get_inputs()
        assert given.type == 'tensor(float)' and isinstance(given.shape[0], str)
        assert [output.name for output in session.get_outputs()][:3] == ['prediction', 'logits', 'embedding']
    assert (folder / 'model_fp16.onnx').stat().st_size < 0.7 * (folder / 'model.onnx').stat().st_size
    half, int8 = (onnx.load(folder / name).graph for name in ('model_fp16.onnx', 'model_int8.onnx'))
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in half.initializer}
    operators = [node.op_type for node in int8.node]
    weights = {tensor.name for tensor in int8.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert len(weights) >= operators.count('Conv') > 0
    made_by = {output: node for node in int8.node for output in node.output}
    searches = [node for node in int8.node if node.op_type == 'TopK']
    for node in searches:
        while node.op_type != 'MatMul':
            node = made_by[node.input[0]]
            assert node.op_type != 'DequantizeLinear'
        assert all(made_by[name].op_type != 'DequantizeLinear' for name in node.input if name in made_by)
    assert searches


@pytest.mark.parametrize('name, tolerance', [('model_fp16.onnx', 0.02), ('model_int8.onnx', 0.3)])
def test_half_and_int8_are_near(exported, name, tolerance):
    expected = eager_outputs(create_backbone(), images(4))['logits']
    error = (opened(exported[0] / name)(images(4))['logits'] - expected).abs().median() / expected.std()
    assert 1e-6 < error < tolerance


def test_model_stays_as_it_is(exported):
    model, fresh = exported[1], create_backbone()
    assert model.training and all(module.training for module in model.modules())
    assert type(model) is type(fresh) and model.pretrained_cfg == fresh.pretrained_cfg
    state, expected = model.state_dict(), fresh.state_dict()
    assert state.keys() == expected.keys()
    assert all(
        torch.equal(value, expected[name]) and value.dtype == expected[name].dtype for name, value in state.items()
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_classes_and_thresholds(exported, tmp_path):
    folder, _, _ = exported
    rows = list(csv.DictReader((folder / 'selected_tags.csv').open()))
    assert [row['name'] for row in rows] == [f'class {i}' for i in range(5)]
    assert [float(row['best_threshold']) for row in rows] == THRESHOLDS and {row['category'] for row in rows} == {'0'}
    (row,) = csv.DictReader((folder / 'thresholds.csv').open())
    assert row['category'] == '0' and float(row['threshold']) == pytest.approx(np.mean(THRESHOLDS), abs=1e-6)
    assert json.loads((folder / 'categories.json').read_text()) == [{'category': 0, 'name': row['name']}]
    program = load_program(folder / 'model.onnx')
    assert program.thresholds == THRESHOLDS and program.num_classes == 5 and program.num_features == 96


def test_own_classes_and_thresholds(plain):
    rows = list(csv.DictReader((plain / 'selected_tags.csv').open(encoding='utf-8')))
    assert [(row['name'], row['best_threshold']) for row in rows] == [(NAMES[0], '0.2'), (NAMES[1], '0.3')]
    config = json.loads((plain / 'config.json').read_text())
    assert config['label_names'] == NAMES and config['thresholds'] == dict(zip(NAMES, (0.2, 0.3)))
    program = load_program(plain / 'model.pt2')
    assert program.pretrained_cfg['label_names'] == NAMES and program.thresholds == [0.2, 0.3]


def test_model_in_half_precision(plain):
    """Files are float32 whatever the model is in."""
    expected = create_plain(dtype=torch.bfloat16).float()(images(2))
    torch.testing.assert_close(opened(plain / 'model.pt2')(images(2))['logits'], expected, rtol=0, atol=1e-4)


def test_preprocessing_is_that_of_predict(exported):
    folder, _, _ = exported
    steps = json.loads((folder / 'preprocess.json').read_text())
    assert steps['test'] == steps['val']
    by_type = {step['type']: step for step in steps['test']}
    config = resolve_preprocessing(load_program(folder / 'model.onnx'))
    transform = create_transform(**config)
    resize, crop = transform.transforms[:2]
    assert config['input_size'] == (3, 64, 64) and by_type['resize']['size'] == list(resize.size)
    assert by_type['resize']['interpolation'] == resize.interpolation.value == config['interpolation']
    assert by_type['center_crop']['size'] == list(crop.size)
    assert by_type['normalize']['mean'] == list(config['mean']) and by_type['normalize']['std'] == list(config['std'])


def waves(height, width):
    phase = np.arange(height)[:, None, None] / 20 + np.arange(width)[:, None] / (9, 14, 30)
    return (128 + 100 * np.sin(phase)).astype(np.uint8)


def printed_by_readme(folder, photo, monkeypatch):
    """What the code of its README.md prints for a photo."""
    (code,) = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.S)
    assert 'torch' not in code and 'timm' not in code
    monkeypatch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("'image.jpg'", repr(str(photo))), {})
    return eval(printed.getvalue())


def test_code_of_the_readme(exported, photos, monkeypatch):
    folder, _, _ = exported
    model = create_backbone()
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, 64, 64))
    for file, scores, error in predict_images(model, photos, workers=0, device='cpu'):
        expected = {f'class {i}': s for i, s in enumerate(scores.tolist()) if s >= THRESHOLDS[i]}
        assert not error and printed_by_readme(folder, file, monkeypatch) == pytest.approx(expected, abs=1e-4)
    assert 0 < len(expected) < 5


def test_shorter_side_has_no_form_for_others():
    config = dict(input_size=(3, 64, 96), interpolation='bicubic', mean=(0.3, 0.4, 0.5), std=(0.2, 0.2, 0.3))
    with pytest.raises(ValueError, match='squash'):
        sidecars(dict(config, crop_mode='center', crop_pct=0.875), ['cat'], [0.5])


@pytest.mark.parametrize('crop, size', [('center', (64, 64)), ('squash', (64, 64)), ('squash', (64, 96))])
def test_steps_of_preprocessing(crop, size):
    """As torchvision takes them, they give what timm does."""
    config = dict(input_size=(3, *size), interpolation='bicubic', mean=(0.3, 0.4, 0.5), std=(0.2, 0.2, 0.3))
    config.update(crop_mode=crop, crop_pct=0.875)
    steps = {step['type']: step for step in json.loads(sidecars(config, ['cat'], [0.5])['preprocess.json'])['test']}
    numbers = steps['normalize']
    transform = transforms.Compose(
        [
            transforms.Resize(steps['resize']['size'], transforms.InterpolationMode(steps['resize']['interpolation'])),
            transforms.CenterCrop(steps['center_crop']['size']),
            transforms.ToTensor(),
            transforms.Normalize(numbers['mean'], numbers['std']),
        ]
    )
    for height, width in ((150, 230), (230, 150), (150, 150)):
        image = Image.fromarray(waves(height, width))
        torch.testing.assert_close(transform(image), create_transform(**config)(image), rtol=0, atol=0.03)


@pytest.mark.parametrize('in_chans, crop', [(3, 'center'), (1, 'squash'), (3, 'border')])
def test_code_of_the_readme_for_other_preprocessing(tmp_path, monkeypatch, in_chans, crop):
    """It gives the graph what timm gives a model, for an image of another shape, too."""
    given = {}

    class Session:
        def __init__(self, path):
            assert path == 'model.onnx'

        def run(self, names, inputs):
            given.update(inputs)
            return [np.array([[0.9, 0.3]])]

    size = (64, 64) if crop == 'center' else (64, 96)
    config = dict(input_size=(in_chans, *size), interpolation='bicubic', mean=(0.3,) * in_chans, std=(0.2,) * in_chans)
    config.update(crop_mode=crop, crop_pct=1.0 if crop == 'border' else 0.875)
    monkeypatch.setitem(sys.modules, 'onnxruntime', SimpleNamespace(InferenceSession=Session))
    (tmp_path / 'selected_tags.csv').write_text('name,category,best_threshold\ncat,0,0.5\n"a ""dog""",0,0.2\n')
    (tmp_path / 'README.md').write_text(f'```python\n{six_lines(config)}\n```')
    Image.fromarray(waves(150, 230)).save(tmp_path / 'photo.png')
    printed = printed_by_readme(tmp_path, tmp_path / 'photo.png', monkeypatch)
    assert printed == {'cat': 0.9, 'a "dog"': 0.3}
    with Image.open(tmp_path / 'photo.png') as image:
        expected = create_transform(**config)(image.convert('L' if in_chans == 1 else 'RGB'))[None]
    assert given['input'].dtype == np.float32 and given['input'].shape == expected.shape
    assert np.abs(given['input'] - expected.numpy()).mean() < 0.02  # a level of 255


# --- what is refused


def refuses(message, model, folder, error=ValueError, **options):
    """An export raises one sentence and writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')} if folder.exists() else None
    with pytest.raises(error, match=message) as caught:
        export_model(model, folder, **{'img_size': 64, **options})
    assert '\n' not in str(caught.value)
    if before is None:
        assert not folder.exists() or not [path for path in folder.iterdir() if not path.name.startswith('.')]
    else:
        left = {path: path.stat().st_mtime_ns for path in folder.rglob('*') if not path.name.startswith('.')}
        assert left == {path: time for path, time in before.items() if not path.name.startswith('.')}


def test_contradicting_options(tmp_path, photos):
    model, folder = create_plain(), tmp_path / 'out'
    refuses(r"Unknown format 'tflite' \(--format\), expected onnx, pt2", model, folder, formats=['onnx', 'tflite'])
    refuses('No format', model, folder, formats=[])
    for option in (dict(half=True), dict(neighbors=True), dict(opset=18), dict(int8=True, calibration_images=photos)):
        refuses('--format onnx', model, folder, formats=['pt2'], **option)
    refuses('--int8 needs --calibration-images', model, folder, int8=True)
    refuses('--neighbors: ResNet has no label graph', model, folder, neighbors=True)
    refuses('3 class names for 2 classes', model, folder, class_names=['a', 'b', 'c'])
    refuses('1 thresholds for 2 classes', model, folder, thresholds=[0.5])
    refuses('Nothing found', model, folder, error=OSError, calibration_images=tmp_path / 'nowhere')


def test_models_that_cannot_be_exported(tmp_path):
    folder = tmp_path / 'out'
    refuses('no classes', timm.create_model('test_resnet', num_classes=0), folder)
    refuses('Linear is not a timm model', nn.Linear(3, 2), folder)
    fixed = create_plain('vit_tiny_patch16_224', embed_dim=16, depth=1, num_heads=2)
    refuses('VisionTransformer takes images of one size.*dynamic_img_size=True', fixed, folder, dynamic_size=True)
    refuses(r'Image size 50 \(--img-size\)', create_plain('vig_ti_224', depth=1, embed_dim=16), folder, img_size=50)
    strange = create_plain()
    strange.layer1 = nn.Sequential(strange.layer1, Branch())
    refuses('cannot be exported to pt2', strange, folder, formats=['pt2'])


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize('package', ['onnxscript', 'onnxruntime'])
def test_missing_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package {package}: pip install 'gkgnet-timm\[onnx\]'"
    refuses(message, create_plain(), tmp_path / 'out', error=UserError, formats=['onnx'])


def test_folder_of_somebody_else(tmp_path):
    model, folder = create_plain(), tmp_path / 'out'
    folder.mkdir()
    (folder / 'thesis.txt').write_text('mine')
    refuses("has other files, such as 'thesis.txt'", model, folder, error=FileExistsError)
    (folder / 'thesis.txt').unlink()
    for name in ('config.json', 'model.safetensors'):
        (folder / name).write_text('{}')
    refuses('has other files|not of an export', model, folder, error=FileExistsError)
    (folder / 'model.safetensors').unlink()
    refuses('config.json that is not of an export', model, folder, error=FileExistsError)
    refuses('is a file, give a folder', model, folder / 'config.json', error=FileExistsError)


def wrong_neighbors(x, y, k, dilation, num_groups, position):
    """The first ones, whatever is near."""
    return (torch.arange(k) % y.shape[1]).expand(x.shape[0], num_groups, x.shape[1], k).contiguous()


def test_wrong_search_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr('gkgnet_timm.graph.recorded.search_neighbors', wrong_neighbors)
    message = r'model.pt2 differs from PyTorch.*Nothing was written'
    refuses(message, create_backbone(), tmp_path / 'out', formats=['pt2'])


def test_wrong_graph_is_not_written(exported, tmp_path, monkeypatch):
    """One of other weights, as if an exporter had made a mistake in the last layer."""

    def record_another(outputs, path, images, sizes, opset, proof):
        for target in (path, proof):
            target.write_bytes((exported[0] / 'model.onnx').read_bytes())

    monkeypatch.setattr(export, 'record_onnx', record_another)
    model = create_backbone()
    export_model(model, tmp_path / 'right', formats=['onnx'], img_size=64)
    with torch.no_grad():
        model.head_label.weight.mul_(1.5)
    message = r'model.onnx differs from PyTorch.*Nothing was written'
    refuses(message, model, tmp_path / 'out', formats=['onnx'])


@pytest.fixture
def earlier(plain, tmp_path):
    """A folder of an earlier export."""
    return Path(shutil.copytree(plain, tmp_path / 'out'))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != '.'}


@pytest.mark.parametrize('stage', ['record', 'compare', 'sidecars'])
def test_failed_export_leaves_the_earlier_one(earlier, monkeypatch, stage):
    before = contents(earlier)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, dict(record='record_pt2', compare='compare', sidecars='sidecars')[stage], fail)
    with pytest.raises(KeyboardInterrupt):
        export_model(create_plain(), earlier, formats=['pt2'], img_size=96)
    assert contents(earlier) == before and load_program(earlier / 'model.pt2').size == [64, 64]
    assert not [name for name in os.listdir(earlier) if name.startswith('.export-')]


def test_earlier_files_of_another_model_do_not_stay(earlier):
    """Also what a run left that was killed."""
    for name in ('model.onnx', 'model_fp16.onnx', 'model_int8.onnx'):
        (earlier / name).write_bytes(b'old')
    (earlier / '.export-killed').mkdir()
    export_model(create_plain(), earlier, formats=['pt2'], img_size=96)
    assert contents(earlier).keys() == {'model.pt2', *BESIDE} and not (earlier / '.export-killed').exists()
    assert load_program(earlier / 'model.pt2').size == [96, 96]
