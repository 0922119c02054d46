"""Weights of label graphs on timm models: of the backbone, from the Hub or a file, and of the whole."""

import json
import logging

import pytest
import torch
from fake_hub import run_python
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

import timm
from timm.models import save_for_hf

import gkgnet_timm  # noqa: F401
from gkgnet_timm.models import _backbone, _pretrained
from gkgnet_timm.models.gkgnet_backbone import GkgNetBackbone
from gkgnet_timm.weights.load import create_model, load_model

TAG = 'test_resnet.r160_in1k'


def create(**kwargs):
    torch.manual_seed(1)
    return timm.create_model('gkgnet_backbone', **dict(dict(backbone='test_resnet', num_classes=4), **kwargs))


def same(state, other, prefix=''):
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return bool(state) and all(torch.equal(value, other[key]) for key, value in state.items())


@pytest.fixture
def no_download(monkeypatch):
    """Fail where weights of a backbone are asked for."""

    def create(name, pretrained=False, **kwargs):
        assert not pretrained or ':' in name or name.startswith('gkgnet'), f'{name} must not be fetched'
        return original(name, pretrained=pretrained, **kwargs)

    original = timm.create_model
    monkeypatch.setattr(_backbone.timm, 'create_model', create)


HUB = """
import json, os, sys, warnings
from pathlib import Path
from fake_hub import FakeHub

root = Path(sys.argv[1])
with FakeHub(root) as hub:
    os.environ['HF_ENDPOINT'] = hub.endpoint
    import timm, torch, gkgnet_timm
    from timm.models import save_for_hf
    options = dict(backbone='test_resnet', num_classes=4)
    trunk = timm.create_model('test_resnet', pretrained=True).state_dict()
    model = timm.create_model('gkgnet_backbone', pretrained_backbone=True, in_chans=3, **options)
    fresh = timm.create_model('gkgnet_backbone', pretrained=True, **options)
    for state in (model.state_dict(), fresh.state_dict()):
        assert all(torch.equal(value, trunk[key.removeprefix('backbone.')])
                   for key, value in state.items() if key.startswith('backbone.'))
    assert model._model_args['pretrained_backbone'] is True
    try:
        gkgnet_timm.load_model(name='gkgnet_backbone', pretrained=True, **options)
    except ValueError as error:
        print(error)
    model.label_embed.weight.data.fill_(2)
    save_for_hf(model, 'saved', safe_serialization=True)
    save_for_hf(model, root / 'org' / 'mine', safe_serialization=True)
    before = len(hub.requests)
    for name in ('local-dir:saved', 'hf-hub:org/mine'):
        loaded = timm.create_model(name, pretrained=True)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        timm.create_model(name, pretrained=False)
    asked = hub.requests[before:]
    print(json.dumps([request for request in asked if 'test_resnet' in request]))
    print(json.dumps(json.load(open('saved/config.json'))['model_args']))
try:
    timm.create_model('gkgnet_backbone', backbone='test_resnet.r160_in1k', pretrained=True, cache_dir='empty')
except OSError as error:
    print(error)
"""


def test_from_the_hub(tmp_path):
    """The backbone's own weights, and then those of the whole model, for which the backbone is not asked for again."""
    published = timm.create_model('test_resnet')
    save_for_hf(published, tmp_path / 'hub' / 'timm' / TAG, safe_serialization=True)
    done = run_python(HUB, tmp_path / 'hub', home=tmp_path / 'home', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    fresh, asked, args, refusal = done.stdout.splitlines()
    assert json.loads(asked) == []
    assert json.loads(args)['backbone'] == 'test_resnet' and json.loads(args)['pretrained_backbone'] is True
    assert refusal.startswith(f'No weights of the backbone {TAG} (') and 'pretrained_backbone' in refusal
    assert 'Only the backbone test_resnet is pretrained' in done.stderr and 'without a classifier' in fresh


@pytest.mark.parametrize('answer', [ConnectionError('no network'), EntryNotFoundError('another name')])
def test_hub_is_asked_once_before_it_downloads(monkeypatch, tmp_path, answer):
    """Its client tries for a minute where there is no network. A file of another name is left to timm."""

    def ask(*args, **kwargs):
        raise answer

    def create(name, pretrained=False, **kwargs):
        asked.append(pretrained)
        return original(name, **kwargs)

    asked, original = [], timm.create_model
    monkeypatch.setattr(_pretrained, 'get_hf_file_metadata', ask)
    monkeypatch.setattr(_backbone.timm, 'create_model', create)
    options = dict(backbone=TAG, pretrained_backbone=True, cache_dir=str(tmp_path))
    if isinstance(answer, EntryNotFoundError):
        GkgNetBackbone(**options)
        assert True in asked
    else:
        with pytest.raises(OSError, match='No weights of the backbone .*no network'):
            GkgNetBackbone(**options)
        assert True not in asked


@pytest.mark.parametrize('name', ['gkgnet_backbone', 'gkgnet_efficientnet_lite0'])
def test_folder_is_the_same_model(name, tmp_path, no_download, caplog):
    backbone = {} if 'lite0' in name else dict(backbone='test_vit', img_size=64)
    model = timm.create_model(name, num_classes=3, label_dim=32, num_groups=4, **backbone).eval()
    model._model_args['pretrained_backbone'] = True  # as timm records it of a model that began so
    save_for_hf(model, tmp_path, dict(label_names=['a', 'b', 'c']), safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['model_args'].get('backbone') == backbone.get('backbone') and config['model_args']['num_groups'] == 4
    assert config['pretrained_cfg']['license'] == 'apache-2.0'
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert same(model.state_dict(), again.state_dict()) and again.pretrained_cfg['label_names'] == ['a', 'b', 'c']
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), again(x))
    assert torch.equal(model(x), load_model(tmp_path)(x))
    assert not caplog.records


def test_other_size_classes_and_channels(tmp_path, no_download):
    model = create(backbone='test_vit')
    save_for_hf(model, tmp_path, safe_serialization=True)
    other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, img_size=64, num_classes=7, in_chans=1)
    assert other(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    assert torch.equal(
        other.label_stages[0].blocks[0].ffn.fc1.conv.weight, model.label_stages[0].blocks[0].ffn.fc1.conv.weight
    )
    weight = model.backbone.patch_embed.proj.weight
    torch.testing.assert_close(other.backbone.patch_embed.proj.weight, weight.sum(1, keepdim=True))


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_file_of_a_backbone(suffix, tmp_path, no_download, caplog):
    """As timm's models name their tensors, with or without a classifier: the label branch starts fresh."""
    trunk, path = timm.create_model('test_convnext').state_dict(), tmp_path / f'trunk.{suffix}'
    save_file(trunk, path) if suffix == 'safetensors' else torch.save(dict(state_dict=trunk), path)
    with caplog.at_level(logging.WARNING):
        model = create_model('gkgnet_backbone', pretrained_path=path, num_classes=4, backbone='test_convnext')
    assert same(model.state_dict(), trunk, 'backbone.')
    assert 'label_, head_* start fresh' in caplog.text and model.pretrained_cfg['num_classes'] == 0
    with pytest.raises(ValueError, match='without a classifier'):
        load_model(path, name='gkgnet_backbone', num_classes=4, backbone='test_convnext')
    with pytest.raises(ValueError, match='Not of a label graph on test_resnet .*has no'):
        create_model('gkgnet_backbone', pretrained_path=path, num_classes=4, backbone='test_resnet')
    trunk['stages.0.blocks.0.norm.weight'][0] = torch.nan
    torch.save(trunk, tmp_path / 'nan.pth')
    with pytest.raises(ValueError, match='nan or infinite'):
        create_model('gkgnet_backbone', pretrained_path=tmp_path / 'nan.pth', backbone='test_convnext')


def test_wrong_files_of_a_label_graph(tmp_path, no_download):
    model = create()
    state = model.state_dict()
    for key, message in (('head_label.weight', 'has no tensor'), ('backbone.layer1.0.conv1.weight', 'has no tensor')):
        torch.save({name: value for name, value in state.items() if name != key}, tmp_path / 'part.pth')
        with pytest.raises(ValueError, match=f"{message} '{key}'"):
            create_model('gkgnet_backbone', pretrained_path=tmp_path / 'part.pth', backbone='test_resnet')
    torch.save(state, tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match="has no tensor 'label_stages.0.patch_proj"):
        options = dict(backbone='test_resnet', label_dim=16)
        create_model('gkgnet_backbone', pretrained_path=tmp_path / 'whole.pth', num_classes=4, **options)
    again = create_model(
        'gkgnet_backbone', pretrained_path=tmp_path / 'whole.pth', num_classes=4, backbone='test_resnet'
    )
    assert same(state, again.state_dict())
    assert again.pretrained_cfg['num_classes'] == 4
