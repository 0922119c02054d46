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
from filler import NARROW, mmcls, published_gkgnet, published_pvig
from safetensors.torch import load_file
from screen import Screen

import timm
from timm.data import IMAGENET_DEFAULT_MEAN

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.class_names import COCO_CLASSES
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.models.pvig import VARIANTS
from gkgnet_timm.weights.convert import Converted, convert

pytestmark = pytest.mark.usefixtures('no_curves')

SMALL = ['dims=(8,16,40,64)', 'img_size=64']
LOGITS = """
import json, sys, torch, timm
hub, steps = sys.argv[1], json.loads(sys.argv[2])
logits = []
for name, kwargs in steps:
    if hub:  # before anything else has imported the package
        model = torch.hub.load(hub, name, source='local', pretrained=True, **kwargs)
    else:
        import gkgnet_timm
        torch.manual_seed(0)  # for a label branch that starts fresh
        model = timm.create_model(name, pretrained=True, **kwargs)
    hub = ''
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        logits.append(model.eval()(torch.randn(1, 3, 224, 224, generator=generator)))
torch.save(logits, 'logits.pth')
"""


def gkgnet_file(num_classes=80, img_size=64, variant='narrow', **kwargs):
    state_dict = published_gkgnet(img_size, num_classes, variant, **kwargs)
    return {**state_dict, 'backbone.backbone.0.0.relative_pos': torch.zeros(1, 2, 2)}


def logits_of(steps, home, hub='', **kwargs):
    """Logits of pretrained models, by name and arguments, in a fresh process; the first by torch.hub if given."""
    done = run_python(LOGITS, hub, json.dumps(steps), home=home, **kwargs)
    assert done.returncode == 0, done.stderr
    return torch.load(Path(kwargs.get('cwd', home), 'logits.pth'))


def test_published_files_to_the_hub_or_a_url_their_caches_and_installed(tmp_path, monkeypatch, capsys):
    for width in ('s', 'ti'):  # --install takes the options of a model as they are
        monkeypatch.setitem(VARIANTS[width], 'dims', NARROW)
    path, trunk = tmp_path / 'GKGNet-576.pth', tmp_path / 'hub' / 'files' / 'pvig_ti_78.5.pth.tar'
    trunk.parent.mkdir(parents=True)
    torch.save(mmcls(gkgnet_file(img_size=576)), path)
    torch.save(published_pvig(1000, 'narrow'), trunk)
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'installed' / 'gkgnet_timm'))
    repo = tmp_path / 'hub' / 'gkgnet-timm' / 'gkgnet_576.coco2014'
    command(['convert', str(path), '--model', 'gkgnet_576', '--output', str(repo), '--install'])
    printed = capsys.readouterr().out
    assert '614 of 615 tensors taken, 1 dropped (relative_pos' in printed and '0 resampled' in printed
    assert 'the same bit for bit' in printed and 'Installed as' in printed
    assert sorted(os.listdir(repo)) == ['README.md', 'config.json', 'model.safetensors']
    command(['convert', str(trunk), '--model', 'pvig_ti_224', '--output', str(tmp_path / 'trunk'), '--install'])

    files = {'gkgnet_576': path, 'pvig_ti_224': trunk, 'gkgnet_ti_224': trunk}
    narrow, team = dict(dims=NARROW), dict(GKGNET_TIMM_HUB_ORG='gkgnet-timm')
    with FakeHub(tmp_path / 'hub') as hub:
        url = dict(url=f'{hub.endpoint}/files/{trunk.name}')
        steps = [(name, dict(narrow, pretrained_cfg_overlay=dict(file=str(file)))) for name, file in files.items()]
        steps += [('gkgnet_576', narrow), ('pvig_ti_224', dict(narrow, pretrained_cfg_overlay=url))]
        *direct, of_hub, of_url = logits_of(steps, tmp_path / 'home', endpoint=hub.endpoint, **team)
        assert torch.equal(of_hub, direct[0]) and torch.equal(of_url, direct[1])
        assert [request for request in hub.requests if '/files/' in request] == [f'GET /files/{trunk.name}']
        assert any('model.safetensors' in request for request in hub.requests)
    path.unlink()
    trunk.unlink()
    steps = [(name, narrow) for name in files]
    cached = logits_of(steps, tmp_path / 'home', HF_HUB_OFFLINE=1, **team)
    home, elsewhere = tmp_path / 'installed', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    # without any cache and server; torch.hub finds the package by the repository alone
    env = dict(cwd=elsewhere, HF_HUB_OFFLINE=1, PYTHONPATH=str(home / 'guard'))
    of_torch_hub, *installed = logits_of([('gkgnet_576', narrow), *steps], home, str(ROOT), **env)
    assert torch.equal(of_torch_hub, direct[0])
    for name, *found, expected in zip(files, cached, installed, direct):
        assert all(torch.equal(logits, expected) for logits in found), name


def test_position_embedding_of_another_size(tmp_path, capsys):
    torch.save(gkgnet_file(img_size=96), tmp_path / 'f.pth')
    argv = ['convert', str(tmp_path / 'f.pth'), '--model', 'gkgnet_ti_224', '--output', str(tmp_path / 'out')]
    command([*argv, '--model-kwargs', *SMALL])
    assert '1 resampled (stem.pos_embed (1, 8, 24, 24) to (1, 8, 16, 16))' in capsys.readouterr().out
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['model_args']['img_size'] == [64, 64] and config['model_args']['dims'] == [8, 16, 40, 64]
    # for transformers, which would take the softmax over classes, and refuses their number in two places
    assert config['problem_type'] == 'multi_label_classification' and 'num_classes' not in config['model_args']


def test_conversion_from_python(tmp_path):
    torch.save(gkgnet_file(20), tmp_path / 'f.pth')
    kwargs = dict(model='gkgnet_ti_224', model_kwargs=dict(dims=NARROW, img_size=64))
    done = convert(tmp_path / 'f.pth', tmp_path / 'out', **kwargs)
    dropped = '1 dropped (relative_pos, which the model computes)'
    tensors = ['614 of 615 tensors taken', dropped, '0 resampled']
    assert done == Converted(tmp_path / 'out', 'gkgnet_ti_224', 20, tensors, None)
    model = timm.create_model(f'local-dir:{done.folder}', pretrained=True)
    direct = timm.create_model(
        'gkgnet_ti_224',
        pretrained=True,
        num_classes=20,
        dims=NARROW,
        img_size=64,
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'f.pth')),
    )
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in direct.state_dict().items())
    with pytest.raises(ValueError, match='--install is for'):
        convert(tmp_path / 'f.pth', tmp_path / 'out', install=True, **kwargs)


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
    flags = ['--model', 'gkgnet_576', '--model-kwargs', *SMALL, '--output']
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
def trained(tmp_path_factory, small_demo):
    folder = tmp_path_factory.mktemp('trained')
    model = ['--model', 'gkgnet_ti_224', '--img-size', '32', '--model-kwargs', 'dims=(8,16,40,64)', 'depths=(1,1,1,1)']
    flags = ['-c', 'demo', *model, '-b', '8', '--epochs', '1', '-j', '0', '--device', 'cpu']
    train([*flags, '--model-ema', '--model-ema-decay', '0.9', '--output', str(folder), '--experiment', 'run'])
    return folder / 'run' / 'last.pth.tar'


@pytest.mark.parametrize('best', ['raw', 'average'])
def test_better_weights_are_converted(best, trained, tmp_path, capsys):
    state = torch.load(trained, weights_only=False)
    torch.save(dict(state, best_weights=best), tmp_path / 'last.pth.tar')
    command(['convert', str(tmp_path / 'last.pth.tar'), '--output', str(tmp_path / 'out')])
    assert f'Weights: {best}, which had the better metric' in capsys.readouterr().out
    weights = load_file(tmp_path / 'out' / 'model.safetensors')
    stored = state['state_dict' if best == 'raw' else 'state_dict_ema']
    assert all(torch.equal(weights[key], value) for key, value in stored.items())
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['converted_from']['ema'] == (best == 'average')


@pytest.mark.parametrize('kind', ['state_dict', 'state_dict_ema'])
def test_own_checkpoint(trained, tmp_path, capsys, kind):
    argv = ['convert', str(trained), '--output', str(tmp_path / 'out')] + [
        '--use-ema' if kind == 'state_dict_ema' else '--no-use-ema'
    ]
    command(argv)
    stored = torch.load(trained, weights_only=False)
    weights = load_file(tmp_path / 'out' / 'model.safetensors')
    assert weights.keys() == stored[kind].keys()
    assert all(torch.equal(weights[key], value) for key, value in stored[kind].items())
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    cfg = model.pretrained_cfg
    assert list(cfg['label_names']) == stored['args']['class_names'] and tuple(cfg['mean']) == IMAGENET_DEFAULT_MEAN
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
    small = ['--model-kwargs', *SMALL]
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
        (['good.pth'], "'good.pth' does not say which model"),
        (['good.pth', '--model', 'resnet18'], "'resnet18' is not one that weights can be converted to: gkgnet_224"),
        (['good.pth', '--model', 'gkgnet_577'], "'gkgnet_577' is not one"),
        (['good.pth', '--model', 'gkgnet_576.nope'], "'gkgnet_576.nope' is not one"),
        (['own_nan.pth', '--no-use-ema'], "'own_nan.pth': tensor 'stem.conv1.conv.weight' has nan"),
        (['good.pth', '--model', 'pvig_ti_224', *small], 'good.pth'),
        (['good.pth', '--model', 'gkgnet_ti_224'], 'good.pth'),
        (['good.pth', '--model', 'gkgnet_ti_224', *small, '--use-ema'], 'no average'),
        (['good.pth', '--model', 'gkgnet_ti_224', *small, '--class-order', 'three.txt'], 'has 3 names.*80 classes'),
        (['good.pth', '--model', 'gkgnet_ti_224', *small, '--class-order', 'no.txt'], "'no.txt'"),
        (['good.pth', '--model', 'gkgnet_576', *small, '--install'], '--install is for .*good.pth'),
        (['20.pth', '--model', 'gkgnet_576', *small, '--install'], '--install is for'),
        (['good.pth', '--model', 'gkgnet_224', *small, '--install'], '--install is for .*good.pth'),
        ([str(trained), '--install'], '--install is for .*last.pth.tar.*local-dir:out'),
        ([str(trained), '--model', 'gkgnet_576'], 'leave out --model'),
        ([str(trained), '--class-order', 'names.txt'], 'in the order of its outputs'),
        (['trunk.pth', '--model', 'gkgnet_ti_224', *small], 'trunk.pth.*--model pvig_'),
        (['trunk.pth', '--model', 'vig_ti_224'], 'trunk.pth.*has no place in a model of 12 blocks'),
        (['payload.pth', '--model', 'gkgnet_ti_224', *small], 'payload.pth.* code and was not run'),
        (['nan.pth', '--model', 'gkgnet_ti_224', *small], "label_.*nan"),
        (['cut.pth', '--model', 'gkgnet_ti_224', *small], "cut.pth.*damaged or not a checkpoint"),
        (['page.pth', '--model', 'gkgnet_ti_224', *small], "page.pth.*web page"),
    ]  # fmt: skip
    for argv, message in cases:
        with pytest.raises(SystemExit) as stopped:
            command(['convert', *argv, '--output', 'out'])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count('\n') == 1 and re.search(message, error), (argv, error)
    assert not Path('marker').exists() and not list(Path().rglob('*.safetensors')), 'nothing is left behind'


def test_weights_of_another_tag_are_not_said_to_be_of_it(tmp_path, capsys):
    """Neither the licence of the trunk for a GKGNet, nor a name."""
    torch.save(gkgnet_file(), tmp_path / 'f.pth')
    for name in ('gkgnet_448', 'gkgnet_576.in1k'):
        argv = ['--model', name, '--model-kwargs', *SMALL, '--output', str(tmp_path / 'out')]
        command(['convert', str(tmp_path / 'f.pth'), *argv])
        config = json.loads((tmp_path / 'out' / 'config.json').read_text())
        assert not {'tag', 'license', 'origin_url', 'description'} & config['pretrained_cfg'].keys()
        assert 'label_names' not in config and 'apache' not in (tmp_path / 'out' / 'README.md').read_text()


def test_training_from_a_folder(trained, tmp_path):
    """It has the licence of the weights that it started from."""
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


def test_steps_on_a_terminal(tmp_path, capsys):
    torch.save(gkgnet_file(), tmp_path / 'f.pth')
    argv = ['convert', str(tmp_path / 'f.pth'), '--model', 'gkgnet_ti_224', '--output', str(tmp_path / 'out')]
    argv += ['--model-kwargs', *SMALL]
    command(argv)
    printed = capsys.readouterr()
    with Screen() as screen:
        command(argv)
    steps = ['Reading the weights.', 'Building the model.', 'Writing the folder, and loading it again to compare.']
    assert [line for line in screen.lines if line not in printed.out] == steps
    assert not any(step in printed.out + printed.err for step in steps)
