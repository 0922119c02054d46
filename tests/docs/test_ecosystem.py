"""Other libraries take our models and predictions: see docs/ecosystem.md, whose versions are those of a dated run."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, save_image
from filler import NARROW
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from tiny import create
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import timm

from gkgnet_timm.data.splits import open_split
from gkgnet_timm.inference.predictor import predict_images

PAGE = (ROOT / 'docs' / 'ecosystem.md').read_text(encoding='utf-8')
SIZES = [(97, 133), (160, 75)]  # no multiples of 32


def fall(step, parameters, steps=6):
    """First and last of the losses of some steps of training, after which every parameter has a gradient."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in parameters)
    return losses[0], losses[-1]


# --- segmentation_models_pytorch


@pytest.mark.parametrize('name', ['pvig_ti_224', 'gkgnet_ti_224'])
def test_encoder_of_a_unet(name):
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(0)
    options = dict(encoder_weights=None, classes=3, dims=NARROW, decoder_channels=(16, 16, 8, 8, 8))
    net = smp.Unet(f'tu-{name}', in_channels=4, dynamic_img_pad=True, **options)
    assert net.encoder.out_channels == [4, 0, *NARROW] and net.encoder.output_stride == 32
    images, masks = torch.randn(2, 4, 100, 90), torch.randint(3, (2, 100, 90))
    first, last = fall(lambda: torch.nn.functional.cross_entropy(net(images), masks), net.parameters())
    assert last < first
    assert net(images).shape == (2, 3, 100, 90)
    with pytest.raises(ValueError, match='dynamic_img_pad=True'):
        smp.Unet(f'tu-{name}', **options)(images[:, :3])


def test_what_encoders_cannot_be():
    smp = pytest.importorskip('segmentation_models_pytorch')
    with pytest.raises(TypeError, match="'output_stride'"):
        smp.DeepLabV3Plus('tu-pvig_ti_224', encoder_weights=None)
    with pytest.raises(ValueError, match='downsampling pattern'):
        smp.Unet('tu-vig_ti_224', encoder_weights=None)


# --- torchvision


class Pyramid(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.body = timm.create_model(name, features_only=True, dims=NARROW)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 16, LastLevelMaxPool())
        self.out_channels = 16

    def forward(self, images):
        return self.fpn({str(i): x for i, x in enumerate(self.body(images))})


@pytest.mark.parametrize('detector', [FasterRCNN, RetinaNet])
def test_backbone_of_a_detector(detector):
    torch.manual_seed(0)
    net = detector(Pyramid('pvig_ti_224'), num_classes=4, min_size=90, max_size=140)
    photos = [torch.rand(3, *size) for size in SIZES]
    boxes = [dict(boxes=torch.tensor([[10.0, 10, 60, 60]]), labels=torch.tensor([label])) for label in (1, 2)]
    first, last = fall(lambda: sum(net(photos, boxes).values()), net.parameters())
    assert last < first
    for (height, width), found in zip(SIZES, net.eval()(photos)):
        assert found['boxes'].shape == (len(found['scores']), 4)
        assert (found['boxes'] <= torch.tensor([width, height, width, height])).all()


# --- transformers


def test_the_pipeline_of_transformers_gives_the_scores_of_predict(tmp_path):
    transformers = pytest.importorskip('transformers')
    from gkgnet_timm.commands.convert import main as convert

    model = create(num_classes=4, dtype=torch.float32)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    argv = [str(tmp_path / 'weights.pth'), '--model', 'gkgnet_ti_224', '--output', str(tmp_path / 'folder')]
    convert([*argv, '--model-kwargs', 'img_size=64', f'dims={NARROW}', '--class-order', str(write_names(tmp_path))])
    save_image(tmp_path / 'photo.png', 0)
    classify = transformers.pipeline('image-classification', model=str(tmp_path / 'folder'))
    scores = {row['label']: row['score'] for row in classify(str(tmp_path / 'photo.png'), top_k=4)}
    loaded = timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True)
    ((_, expected, _),) = predict_images(loaded, tmp_path / 'photo.png', device='cpu')
    assert np.allclose([scores[name] for name in 'abcd'], expected, atol=1e-5)


def write_names(folder):
    path = folder / 'names.txt'
    path.write_text('a\nb\nc\nd\n')
    return path


# --- pytorch-grad-cam


@pytest.mark.parametrize('name', ['gkgnet_ti_224', 'pvig_ti_224', 'vig_ti_224'])
def test_modules_of_feature_info_give_maps(name):
    """As those of timm do: libraries put their hooks there."""
    net = create(name, dtype=torch.float32)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for info in net.feature_info:
        with GradCAM(net, [net.get_submodule(info['module'])]) as cam:
            heat = cam(images, [ClassifierOutputTarget(1)] * 2)
        assert heat.shape == (2, 64, 64) and np.isfinite(heat).all()
    assert heat.max() > 0


# --- Label Studio


def test_an_export_of_label_studio_becomes_a_table(tmp_path):
    block = next(code for code in re.findall(r'```python\n(.*?)```', PAGE, re.S) if 'def write_table' in code)
    space = dict(json=json)
    exec(compile(block, 'ecosystem.md', 'exec'), space)

    def annotation(*choices, cancelled=False):
        result = dict(from_name='labels', to_name='image', type='choices', value=dict(choices=choices))
        return dict(result=[result] if choices else [], was_cancelled=cancelled)

    marks = [[annotation('dog', 'big cat')], [annotation()], [annotation('dog'), annotation('dog', cancelled=True)], []]
    tasks = []
    for i, annotations in enumerate(marks):
        save_image(tmp_path / f'{i}.png', i)
        tasks.append(dict(id=i, data=dict(image=f'/data/local-files/?d=photos/{i}.png'), annotations=annotations))
    (tmp_path / 'export.json').write_text(json.dumps(tasks))
    space['write_table'](tmp_path / 'export.json', tmp_path / 'labelled.csv')
    split = open_split('csv', tmp_path, str(tmp_path / 'labelled.csv'))
    assert split.class_names == ['big cat', 'dog']
    assert [split[i][1].tolist() for i in range(len(split))] == [[1, 1], [0, 0], [0, 1]]
