"""`convert`: from a file to what `create_model(pretrained=True)` loads from the Hub, from its cache, and installed."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fake_hub import FakeHub, run_python
from filler import published_gkgnet, published_pvig
from safetensors.torch import load_file
from test_convert import mmcls

import timm
from timm.data import IMAGENET_DEFAULT_MEAN

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.class_names import COCO_CLASSES
from gkgnet_timm.data import demo
from gkgnet_timm.training.run import main as train

NARROW = ['dims=(8,16,40,64)', 'img_size=64']
LOGITS = """
import sys, torch, timm, gkgnet_timm
name, target = sys.argv[1:3]
torch.manual_seed(0)
model = timm.create_model(name, pretrained=True, **eval(sys.argv[3] if len(sys.argv) > 3 else '{}')).eval()
generator = torch.Generator().manual_seed(1)
with torch.inference_mode():
    torch.save(model(torch.randn(1, 3, 224, 224, generator=generator)), target)
"""


def gkgnet_file(num_classes=80, img_size=64, variant='narrow', **kwargs):
    state_dict = published_gkgnet(img_size, num_classes, variant, **kwargs)
    return {**state_dict, 'backbone.backbone.0.0.relative_pos': torch.zeros(1, 2, 2)}


def logits_of(name, tmp_path, home, arguments='{}', **kwargs):
    """Logits of a pretrained model in a fresh process."""
    target = tmp_path / 'logits.pth'
    target.unlink(missing_ok=True)
    done = run_python(LOGITS, name, target, arguments, home=home, **kwargs)
    assert done.returncode == 0, done.stderr
    return torch.load(target)


def test_published_file_to_the_hub_its_cache_and_installed(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'GKGNet-576.pth'
    torch.save(mmcls(gkgnet_file(img_size=576, variant='s')), path)
    direct = logits_of(
        'gkgnet_576',
        tmp_path,
        tmp_path / 'a',
        f'dict(pretrained_cfg_overlay=dict(file={str(path)!r}))',
        HF_HUB_OFFLINE=1,
    )
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'c' / 'gkgnet_timm'))
    repo = tmp_path / 'hub' / 'gkgnet-timm' / 'gkgnet_576.coco2014'
    command(['convert', str(path), '--model', 'gkgnet_576', '--output', str(repo), '--install'])
    printed = capsys.readouterr().out
    assert '614 of 615 tensors taken, 1 dropped (relative_pos' in printed and '0 resampled' in printed
    assert 'the same bit for bit' in printed and 'Installed as' in printed
    assert sorted(os.listdir(repo)) == ['README.md', 'config.json', 'model.safetensors']
    with FakeHub(tmp_path / 'hub') as hub:
        assert torch.equal(logits_of('gkgnet_576', tmp_path, tmp_path / 'b', endpoint=hub.endpoint), direct)
        assert any('model.safetensors' in request for request in hub.requests)
    for home in ('b', 'c'):  # the cache of the Hub; installed, without any cache and server
        assert torch.equal(logits_of('gkgnet_576', tmp_path, tmp_path / home, HF_HUB_OFFLINE=1), direct)
    code = f"""
        import os, torch, timm
        assert not os.path.exists('gkgnet_timm')  # the package is found by the repository alone
        model = torch.hub.load({str(ROOT)!r}, 'gkgnet_576', source='local', pretrained=True)
        model.eval()
        generator = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            torch.save(model(torch.randn(1, 3, 224, 224, generator=generator)), 'logits.pth')
        """
    (tmp_path / 'elsewhere').mkdir()
    guard = str(tmp_path / 'c' / 'guard')
    done = run_python(code, home=tmp_path / 'c', cwd=tmp_path / 'elsewhere', HF_HUB_OFFLINE=1, PYTHONPATH=guard)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / 'elsewhere' / 'logits.pth'), direct)


def test_trunk_from_a_url_its_cache_and_installed(tmp_path, monkeypatch):
    (tmp_path / 'hub' / 'files').mkdir(parents=True)
    path = tmp_path / 'hub' / 'files' / 'pvig_ti_78.5.pth.tar'
    torch.save(published_pvig(1000, 'ti'), path)
    names = ('pvig_ti_224', 'gkgnet_ti_224')
    file = f'dict(pretrained_cfg_overlay=dict(file={str(path)!r}))'
    direct = [logits_of(name, tmp_path, tmp_path / 'a', file) for name in names]
    with FakeHub(tmp_path / 'hub') as hub:
        url = f'dict(pretrained_cfg_overlay=dict(url="{hub.endpoint}/files/{path.name}"))'
        assert torch.equal(logits_of(names[0], tmp_path, tmp_path / 'b', url), direct[0])
        assert hub.requests == [f'GET /files/{path.name}']
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'c' / 'gkgnet_timm'))
    command(['convert', str(path), '--model', 'pvig_ti_224', '--output', str(tmp_path / 'out'), '--install'])
    path.unlink()
    for home in ('b', 'c'):
        for name, expected in zip(names, direct):
            assert torch.equal(logits_of(name, tmp_path, tmp_path / home), expected), (home, name)


def test_position_embedding_of_another_size(tmp_path, capsys):
    torch.save(gkgnet_file(img_size=96), tmp_path / 'f.pth')
    argv = ['convert', str(tmp_path / 'f.pth'), '--model', 'gkgnet_ti_224', '--output', str(tmp_path / 'out')]
    command([*argv, '--model-kwargs', *NARROW])
    assert '1 resampled (stem.pos_embed (1, 8, 24, 24) to (1, 8, 16, 16))' in capsys.readouterr().out
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['model_args']['img_size'] == [64, 64] and config['model_args']['dims'] == [8, 16, 40, 64]


def test_class_order(tmp_path):
    state_dict = gkgnet_file()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    permuted = {
        key: value[order] if 'label_lt' in key or key.startswith('head.') else value
        for key, value in state_dict.items()
    }
    for name, state in (('straight', state_dict), ('permuted', permuted)):
        torch.save(state, tmp_path / f'{name}.pth')
    (tmp_path / 'names.txt').write_text('\n'.join(COCO_CLASSES[i] for i in order))
    flags = ['--model', 'gkgnet_576', '--model-kwargs', *NARROW, '--output']
    names = ['--class-order', str(tmp_path / 'names.txt')]
    command(['convert', str(tmp_path / 'straight.pth'), *flags, str(tmp_path / 'a')])
    command(['convert', str(tmp_path / 'permuted.pth'), *names, *flags, str(tmp_path / 'b')])
    a, b = (load_file(tmp_path / name / 'model.safetensors') for name in 'ab')
    assert all(torch.equal(a[key], b[key]) for key in a)
    configs = [json.loads((tmp_path / name / 'config.json').read_text()) for name in 'ab']
    assert configs[0]['label_names'] == configs[1]['label_names'] == list(COCO_CLASSES)
    # classes that are not those of the tag keep the order of the file
    (tmp_path / 'names.txt').write_text('\n'.join(f'thing {i}' for i in range(80)))
    command(['convert', str(tmp_path / 'permuted.pth'), *names, *flags, str(tmp_path / 'b')])
    b, config = (
        load_file(tmp_path / 'b' / 'model.safetensors'),
        json.loads((tmp_path / 'b' / 'config.json').read_text()),
    )
    assert config['label_names'][79] == 'thing 79' and torch.equal(
        a['head_label.weight'][order], b['head_label.weight']
    )
    assert not {'tag', 'license', 'description'} & config['pretrained_cfg'].keys(), 'what is not known is not said'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('GKGNET_TIMM_CACHE', str(folder / 'cache'))
        patch.setattr(demo, 'SPLITS', {'train': 19, 'val': 11})
        model = [
            '--model',
            'gkgnet_ti_224',
            '--img-size',
            '32',
            '--model-kwargs',
            'dims=(8,16,40,64)',
            'depths=(1,1,1,1)',
        ]
        flags = ['-c', 'demo', *model, '-b', '8', '--epochs', '1', '-j', '0', '--device', 'cpu']
        train([*flags, '--model-ema', '--model-ema-decay', '0.9', '--output', str(folder), '--experiment', 'run'])
    return folder / 'run' / 'last.pth.tar'


@pytest.mark.parametrize('kind', ['state_dict', 'state_dict_ema'])
def test_own_checkpoint(trained, tmp_path, capsys, kind):
    argv = ['convert', str(trained), '--output', str(tmp_path / 'out')] + ['--use-ema'] * (kind != 'state_dict')
    command(argv)
    stored = torch.load(trained, weights_only=False)
    weights = load_file(tmp_path / 'out' / 'model.safetensors')
    assert weights.keys() == stored[kind].keys()
    assert all(torch.equal(weights[key], value) for key, value in stored[kind].items())
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    cfg = model.pretrained_cfg
    assert list(cfg['label_names']) == stored['args'].class_names and tuple(cfg['mean']) == IMAGENET_DEFAULT_MEAN
    assert cfg['input_size'][-1] == 32 and 'license' not in cfg
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['training']['epochs'] == 1 and config['training']['dataset'] == 'demo'
    assert str(tmp_path) not in json.dumps(config) and str(trained.parent.parent) not in json.dumps(config)
    # and again from weights without a config, which goes over the folder
    shutil.copy(tmp_path / 'out' / 'model.safetensors', tmp_path / 'plain.safetensors')
    with pytest.raises(SystemExit):
        command(['convert', str(tmp_path / 'out' / 'model.safetensors'), '--output', str(tmp_path / 'again')])
    assert f'local-dir:{tmp_path / "out"}' in capsys.readouterr().err
    command(['convert', str(tmp_path / 'plain.safetensors'), '--model', 'gkgnet_ti_224', '--model-kwargs',
             'dims=(8,16,40,64)', 'depths=(1,1,1,1)', 'img_size=32', '--output', str(tmp_path / 'again')])  # fmt: skip
    again = load_file(tmp_path / 'again' / 'model.safetensors')
    assert all(torch.equal(weights[key], again[key]) for key in weights)


class Payload:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, 'w')


def test_errors_are_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    small = ['--model-kwargs', *NARROW]
    torch.save(gkgnet_file(), 'good.pth')
    torch.save(gkgnet_file(num_classes=20), '20.pth')
    torch.save(published_pvig(1000, 'narrow'), 'trunk.pth')
    torch.save({**gkgnet_file(), 'x': Payload('marker')}, 'payload.pth')
    torch.save({**gkgnet_file(), 'backbone.label_lt.weight': torch.full((80, 64), torch.nan)}, 'nan.pth')
    Path('cut.pth').write_bytes(Path('good.pth').read_bytes()[:-5000])
    own = torch.load(trained, weights_only=False)
    own['state_dict']['stem.conv1.conv.weight'][0] = torch.nan
    torch.save(own, 'own_nan.pth')
    Path('page.pth').write_text('<!DOCTYPE html>')
    Path('three.txt').write_text('a\nb\nc')
    cases = [
        (['nope.pth', '--model', 'gkgnet_576'], "'nope.pth' does not exist"),
        (['good.pth'], "'good.pth' does not say what model"),
        (['good.pth', '--model', 'resnet18'], "'resnet18' is none that weights can be converted to: gkgnet_224"),
        (['good.pth', '--model', 'gkgnet_577'], "'gkgnet_577' is none"),
        (['good.pth', '--model', 'gkgnet_576.nope'], "'gkgnet_576.nope' is none"),
        (['own_nan.pth'], "'own_nan.pth': tensor 'stem.conv1.conv.weight' has nan"),
        (['good.pth', '--model', 'pvig_ti_224', *small], 'good.pth'),
        (['good.pth', '--model', 'gkgnet_ti_224'], 'good.pth'),
        (['good.pth', '--model', 'gkgnet_ti_224', *small, '--use-ema'], 'no average'),
        (['good.pth', '--model', 'gkgnet_ti_224', *small, '--class-order', 'three.txt'], 'has 3 names.*80 classes'),
        (['good.pth', '--model', 'gkgnet_ti_224', *small, '--class-order', 'no.txt'], "'no.txt'"),
        (['good.pth', '--model', 'gkgnet_576', *small, '--install'], '--install is for .*good.pth'),
        (['20.pth', '--model', 'gkgnet_576', *small, '--install'], '--install is for'),
        (['good.pth', '--model', 'gkgnet_224', *small, '--install'], '--install is for .*good.pth'),
        ([str(trained), '--install'], '--install is for .*last.pth.tar.*local-dir:out'),
        ([str(trained), '--model', 'gkgnet_576'], 'leave --model out'),
        (['trunk.pth', '--model', 'gkgnet_ti_224', *small], 'trunk.pth.*--model pvig_'),
        (['payload.pth', '--model', 'gkgnet_ti_224', *small], 'payload.pth.* code and was not run'),
        (['nan.pth', '--model', 'gkgnet_ti_224', *small], "label_.*nan"),
        (['cut.pth', '--model', 'gkgnet_ti_224', *small], "cut.pth.*damaged, or no checkpoint"),
        (['page.pth', '--model', 'gkgnet_ti_224', *small], "page.pth.*web page"),
    ]  # fmt: skip
    for argv, message in cases:
        with pytest.raises(SystemExit) as stopped:
            command(['convert', *argv, '--output', 'out'])
        error = capsys.readouterr().err.replace('Only the trunk is pretrained', '')
        assert stopped.value.code == 2 and error.count('\n') == 1 and re.search(message, error), (argv, error)
    assert not Path('marker').exists() and not list(Path().rglob('*.safetensors')), 'nothing is left behind'


def test_weights_of_another_tag_are_not_said_to_be_of_it(tmp_path, capsys):
    """Neither the licence of the trunk for a GKGNet, nor a name."""
    torch.save(gkgnet_file(), tmp_path / 'f.pth')
    for name in ('gkgnet_448', 'gkgnet_576.in1k'):
        argv = ['--model', name, '--model-kwargs', *NARROW, '--output', str(tmp_path / 'out')]
        command(['convert', str(tmp_path / 'f.pth'), *argv])
        config = json.loads((tmp_path / 'out' / 'config.json').read_text())
        assert not {'tag', 'license', 'origin_url', 'description'} & config['pretrained_cfg'].keys()
        assert 'label_names' not in config and 'apache' not in (tmp_path / 'out' / 'README.md').read_text()


def test_training_from_a_folder(trained, tmp_path, monkeypatch):
    """It has the licence of the weights that it started from."""
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(trained.parent.parent / 'cache'))
    monkeypatch.setattr(demo, 'SPLITS', {'train': 19, 'val': 11})
    start = tmp_path / 'start'
    command(['convert', str(trained), '--output', str(start)])
    config = json.loads((start / 'config.json').read_text())
    config['pretrained_cfg']['license'] = 'mit'
    (start / 'config.json').write_text(json.dumps(config))
    flags = ['-c', 'demo', '--model', f'local-dir:{start}', '--pretrained', '-b', '8', '--epochs', '1', '-j', '0']
    train([*flags, '--img-size', '32', '--device', 'cpu', '--output', str(tmp_path), '--experiment', 'run'])
    command(['convert', str(tmp_path / 'run' / 'last.pth.tar'), '--output', str(tmp_path / 'end')])
    config = json.loads((tmp_path / 'end' / 'config.json').read_text())
    assert config['architecture'] == 'gkgnet_ti_224' and config['pretrained_cfg']['license'] == 'mit'
    assert str(tmp_path) not in json.dumps(config)


def test_what_a_killed_run_has_left_goes_with_the_next(trained, tmp_path):
    left = tmp_path / 'out' / '.convert-x' / 'model.safetensors'
    left.parent.mkdir(parents=True)
    left.write_bytes(b'half')
    command(['convert', str(trained), '--output', str(tmp_path / 'out')])
    assert sorted(os.listdir(tmp_path / 'out')) == ['README.md', 'config.json', 'model.safetensors']
