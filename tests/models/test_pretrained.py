"""Pretrained weights from the Hub, from a URL and from the user's installed files, and what damages them on the way."""

import json
import logging
import shutil

import pytest
import torch
from fake_hub import FakeHub, run_python
from filler import NARROW, published_pvig
from safetensors.torch import save_file
from screen import Screen
from tiny import create

import timm
from timm.models import save_for_hf

import gkgnet_timm  # noqa: F401
from gkgnet_timm.class_names import COCO_CLASSES
from gkgnet_timm.weights.load import create_model
from gkgnet_timm.weights.source import GKGNET_FILE, MODULES, VIG_FILES, installed_file

REPO = 'gkgnet-timm/gkgnet_576.coco2014'
SMALL = dict(img_size=64, dims=NARROW)


class Payload:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, 'w')


def published(root, repo=REPO, **kwargs):
    """A repository of a small model."""
    model = create('gkgnet_576', num_classes=80, dtype=torch.float32, **kwargs)
    save_for_hf(model, root / repo, dict(label_names=COCO_CLASSES), safe_serialization=True)
    return model


@pytest.fixture
def hub(tmp_path):
    with FakeHub(tmp_path / 'hub') as hub:
        yield hub


# The Hub, and what is tried with it, in one process: every door of timm, then refusals, then damaged downloads.
TRIALS = """
import json, os, sys, torch
from pathlib import Path
from fake_hub import FakeHub
from safetensors.torch import load_file, save_file

source, small, repo = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]

def nan(path):
    state = load_file(path)
    state['stem.conv2.bn.bias'][1] = torch.nan
    save_file(state, path)

class Payload:
    def __reduce__(self):
        return open, ('marker', 'w')

def state(name, **kwargs):
    return timm.create_model(name, pretrained=True, **kwargs).state_dict()

with FakeHub(source) as hub:
    os.environ['HF_ENDPOINT'] = hub.endpoint
    import timm, gkgnet_timm
    main = state('gkgnet_576', **small)
    v1 = state(f'hf-hub:{repo}@v1')
    folder = state(f'local-dir:{source / repo}')
    again = state(f'hf-hub:{repo}')
    assert all(torch.equal(main[key], again[key]) and torch.equal(main[key], folder[key]) for key in main)
    assert all(torch.equal(main[key], value + 1) for key, value in v1.items() if value.is_floating_point())
    few = timm.create_model('gkgnet_576', pretrained=True, num_classes=3, in_chans=1, **dict(small, img_size=96))
    assert len(few.head_label.weight) == 3 and few(torch.zeros(1, 1, 96, 96)).shape == (1, 3)
    assert torch.equal(few.stem.conv1.conv.weight, main['stem.conv1.conv.weight'].sum(1, keepdim=True))
    key = 'stages.3.blocks.1.ffn.fc2.conv.weight'
    assert torch.equal(few.state_dict()[key], main[key])
    maps = timm.create_model('gkgnet_576', pretrained=True, features_only=True, **small)
    assert [m.shape[-1] for m in maps(torch.zeros(1, 3, 64, 64))] == [16, 8, 4, 2]
    named = timm.create_model(f'hf-hub:{repo}', pretrained=True)
    assert named.pretrained_cfg['label_names'][0] == 'person' and named.pretrained_cfg['license'] == 'other'
    torch.save(main, 'main.pth')

    hub.gated.add('org/gated')
    for name in ('org/missing', 'org/gated'):
        try:
            state('gkgnet_576', img_size=64, pretrained_cfg_overlay=dict(hf_hub_id=name))
        except OSError as error:
            print(json.dumps([name, 0, 'OSError', str(error)]))

    path = source / repo / 'model.safetensors'
    good = path.read_bytes()
    for fault in ('interrupted', 'hash', 'truncated', 'page', 'payload', 'nan'):
        if fault == 'interrupted':
            hub.cut = len(good) // 2
        elif fault == 'hash':
            hub.wrong_hash = True
        elif fault == 'truncated':
            path.write_bytes(good[:-1000])
        elif fault == 'page':
            path.write_bytes(b'<!DOCTYPE html><html>Sign in</html>')
        elif fault == 'payload':
            torch.save(dict(a=Payload()), path)
        else:
            nan(path)
        for turn in range(2):
            try:
                state('gkgnet_576', cache_dir=f'cache/{fault}', **small)
                print(json.dumps([fault, turn, None, None]))
            except Exception as error:
                print(json.dumps([fault, turn, type(error).__name__, str(error)]))
            hub.cut, hub.wrong_hash = None, False
            path.write_bytes(good)
    assert not os.path.exists('marker')
"""
OFFLINE = """
import timm, gkgnet_timm
print(timm.get_pretrained_cfg('gkgnet_576').hf_hub_id)
for overlay in ({}, dict(hf_hub_id='org/gated')):
    try:
        timm.create_model('gkgnet_576', pretrained=True, img_size=64, pretrained_cfg_overlay=overlay)
    except OSError as error:
        print(error)
"""


def check_refusal(line, repo, reason):
    """What was looked for, where, and both remedies."""
    assert f'gkgnet_576.coco2014 from Hugging Face repository {repo!r}' in line and reason in line and '\n' not in line
    assert 'drive.google.com' in line and 'gkgnet_timm convert FILE' in line and 'hf auth login' in line


def test_every_door_of_timm_refusals_and_damaged_downloads_of_the_hub(tmp_path):
    """Each error is one clear sentence, and the try after a damaged download works."""
    root, home = tmp_path / 'hub', tmp_path / 'home'
    model = published(root)
    published(root, 'org/gated')
    shutil.copytree(root / REPO, root / f'{REPO}@v1')
    other = {key: value + 1 if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file(other, root / REPO / 'model.safetensors')
    done = run_python(TRIALS, root, json.dumps(SMALL), REPO, home=home, GKGNET_TIMM_HUB_ORG='gkgnet-timm')
    assert done.returncode == 0, done.stderr
    loaded = torch.load(home / 'main.pth')
    assert all(torch.equal(loaded[key], value) for key, value in other.items())
    answers = {(name, turn): (kind, text) for name, turn, kind, text in map(json.loads, done.stdout.splitlines())}
    check_refusal(answers['org/missing', 0][1], 'org/missing', 'RepositoryNotFound')
    check_refusal(answers['org/gated', 0][1], 'org/gated', 'GatedRepo')
    expected = {
        'interrupted': ('OSError', 'No weights of gkgnet_576.coco2014'),
        'hash': ('ValueError', 'SHA-256'),
        'truncated': ('ValueError', 'damaged or not a checkpoint'),
        'page': ('ValueError', 'a web page in place of a checkpoint'),
        'payload': ('ValueError', 'damaged or not a checkpoint'),  # its suffix says safetensors, which has no code
        'nan': ('ValueError', "'stem.conv2.bn.bias' has nan"),
    }
    for fault, (kind, message) in expected.items():
        assert answers[fault, 0][0] == kind and message in answers[fault, 0][1], (fault, answers[fault, 0])
        assert '\n' not in answers[fault, 0][1]
        assert answers[fault, 1] == (None, None), (fault, answers[fault, 1])


def test_without_a_network_and_with_another_organisation(tmp_path):
    done = run_python(OFFLINE, home=tmp_path, HF_HUB_OFFLINE=1, GKGNET_TIMM_HUB_ORG='our-team')
    repo, ours, theirs = done.stdout.splitlines()
    assert repo == 'our-team/gkgnet_576.coco2014'
    assert 'GKGNET_TIMM_OFFLINE forbids the network' in ours and 'gkgnet_timm convert FILE' in ours
    check_refusal(theirs, 'org/gated', 'LocalEntryNotFound')


@pytest.mark.parametrize('fault', ['missing', 'cut', 'page', 'payload', 'nan', 'other'])
def test_damaged_downloads_from_a_url(hub, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'torch'))
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    state = published_pvig(1000, 'narrow')
    path = hub.root / 'files' / 'pvig_ti_78.5.pth.tar'
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    overlay = dict(url=f'{hub.endpoint}/files/{path.name}')
    cached = tmp_path / 'torch' / 'checkpoints' / path.name
    if fault == 'missing':
        path.rename(tmp_path / 'kept')
    elif fault == 'cut':
        hub.cut = path.stat().st_size // 2
    elif fault == 'page':
        path.write_bytes(b'\n<html>')
    elif fault == 'payload':
        torch.save({**state, 'extra': Payload(tmp_path / 'marker')}, path)
    elif fault == 'nan':
        torch.save({**state, 'pos_embed': state['pos_embed'] * torch.nan}, path)
    else:
        torch.save(dict(weight=torch.zeros(3)), path)
    kind, message = {
        'missing': (OSError, f'from {hub.endpoint}/files/{path.name}.*404'),
        'cut': (ValueError, 'damaged or not a checkpoint'),
        'page': (ValueError, 'web page'),
        'payload': (ValueError, 'asks for _?io.open, which is code and was not run'),
        'nan': (ValueError, "'pos_embed' has nan"),
        'other': (ValueError, 'Not a checkpoint of GKGNet, Pyramid ViG or ViG'),
    }[fault]
    with pytest.raises(kind, match=message):
        timm.create_model('pvig_ti_224', pretrained=True, pretrained_cfg_overlay=overlay, **SMALL)
    assert not (tmp_path / 'marker').exists()
    # a whole file of something else is what the address has: it stays
    assert cached.exists() == (fault == 'other')
    cached.unlink(missing_ok=True)
    hub.cut = None
    torch.save(state, path)
    model = timm.create_model('pvig_ti_224', pretrained=True, pretrained_cfg_overlay=overlay, **SMALL)
    assert torch.equal(model.stem.conv1.conv.weight, state['stem.convs.0.weight'])


def test_installed_file_goes_first_unless_a_source_is_given(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path))
    model = create('gkgnet_576', num_classes=80, dtype=torch.float32)
    target = installed_file(timm.get_pretrained_cfg('gkgnet_576'))
    assert target == tmp_path / 'weights' / 'gkgnet_576.coco2014' / 'model.safetensors'
    target.parent.mkdir(parents=True)
    save_file(model.state_dict(), target)
    with caplog.at_level(logging.INFO):
        loaded = timm.create_model('gkgnet_576', pretrained=True, **SMALL)
    assert str(target) in caplog.text, 'where weights come from is to be seen'
    assert torch.equal(loaded.head_label.weight, model.head_label.weight)
    other = tmp_path / 'other.safetensors'
    save_file({key: value * 0 for key, value in model.state_dict().items()}, other)
    overlay = dict(pretrained_cfg_overlay=dict(file=str(other)))
    assert not timm.create_model('gkgnet_576', pretrained=True, **overlay, **SMALL).head_label.weight.any()
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"'{target}' are damaged"):
        timm.create_model('gkgnet_576', pretrained=True, **SMALL)
    assert target.exists(), 'only downloads are removed'


def test_trunks_share_the_installed_file():
    for width in ('ti', 's', 'm', 'b'):
        names = [f'pvig_{width}_224'] + [
            f'gkgnet_{"" if width == "s" else width + "_"}{size}.in1k' for size in (224, 576)
        ]
        assert len({installed_file(timm.get_pretrained_cfg(name)) for name in names}) == 1


def test_trunk_says_that_the_label_branch_is_untrained(tmp_path, caplog):
    path = tmp_path / 'pvig.safetensors'
    save_file(published_pvig(1000, 'narrow'), path)
    timm.create_model('gkgnet_ti_224', pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **SMALL)
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert 'label_' in caplog.text and 'to be trained' in caplog.text


def test_tags_are_honest():
    for name in timm.list_models(module=MODULES):
        default = timm.get_pretrained_cfg(name)
        assert default.tag == ('coco2014' if name == 'gkgnet_576' else 'in1k')
    for tag in timm.list_models(pretrained=True, module=MODULES):
        cfg = timm.get_pretrained_cfg(tag)
        if cfg.tag == 'in1k':
            assert not cfg.hf_hub_id and cfg.url in VIG_FILES.values() and cfg.license == 'apache-2.0'
            assert cfg.architecture.startswith('gkgnet') or cfg.url == VIG_FILES[cfg.architecture]
        else:
            assert tag == 'gkgnet_576.coco2014' and cfg.license == 'other'
            assert cfg.url == GKGNET_FILE and not cfg.hf_hub_id, 'nobody owns the name of an organisation there yet'
            assert cfg.label_names == COCO_CLASSES and cfg.crop_mode == 'squash' and cfg.input_size == (3, 576, 576)


def test_progress_of_a_download_on_a_terminal(hub, tmp_path, monkeypatch, capsys):
    """timm shows none unless told to, and once told draws it into a pipe, too."""
    monkeypatch.setattr(timm.models._builder, '_DOWNLOAD_PROGRESS', False)
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    path = hub.root / 'files' / 'pvig_ti_78.5.pth.tar'
    path.parent.mkdir(parents=True)
    torch.save(published_pvig(1000, 'narrow'), path)
    options = dict(pretrained=True, dims=NARROW, pretrained_cfg_overlay=dict(url=f'{hub.endpoint}/files/{path.name}'))
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'piped'))
    create_model('pvig_ti_224', **options)
    assert '100%' not in capsys.readouterr().err
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'shown'))
    with Screen() as screen:
        create_model('pvig_ti_224', **options)
    assert any(line.startswith('100%|') for line in screen.lines), screen.lines
