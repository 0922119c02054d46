"""The published weights in one line: downloaded, converted and installed by the first process that asks for them."""

import dataclasses
import json
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fake_drive import FakeDrive
from fake_hub import run_python
from filler import NARROW, mmcls, published_gkgnet, published_pvig
from safetensors.torch import load_file
from tiny import images

import timm

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.class_names import COCO_CLASSES, UNVERIFIED, VERIFIED
from gkgnet_timm.models.pvig import VARIANTS
from gkgnet_timm.weights import published, table
from gkgnet_timm.weights.convert import convert
from gkgnet_timm.weights.published import install_published, remove, tag_of, verify
from gkgnet_timm.weights.source import installed_file

CREATE = """
import sys, time, torch, timm, gkgnet_timm
start = time.perf_counter()
try:
    model = timm.create_model('gkgnet_576', pretrained=True).eval()
except (OSError, ValueError) as error:
    print(error)
    sys.exit(f'after {time.perf_counter() - start:.2f} s')
torch.save(model(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)), sys.argv[1])
print(model.pretrained_cfg['notes'])
"""


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Google Drive with a published file."""
    with FakeDrive(tmp_path / 'GKGNet-576.pth') as drive:
        monkeypatch.setenv('GKGNET_TIMM_DRIVE_ENDPOINT', drive.endpoint)
        monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
        yield drive


def weights_in(cache):
    """Files without locks, config and card."""
    files = (path for path in Path(cache, 'weights').rglob('*') if path.is_file())
    return [path.name for path in files if path.suffix not in ('.lock', '.json', '.md')]


def test_in_one_line(drive, tmp_path):
    """Two processes at once, then one without a network; the same as what `convert` makes of the file."""
    torch.save(mmcls(published_gkgnet(576, 80, 's')), drive.path)
    home = tmp_path / 'home'
    env = dict(home=home, GKGNET_TIMM_DRIVE_ENDPOINT=drive.endpoint)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda name: run_python(CREATE, tmp_path / name, **env), ('1.pt', '2.pt'))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    said = first.stderr + second.stderr
    assert said.count('non-commercial use only') == 1 and said.count('Waiting for another process') == 1
    assert sum(request == '/download' for request in drive.requests) <= 2 and UNVERIFIED in first.stdout
    assert weights_in(home / 'gkgnet_timm') == ['model.safetensors']
    asked = len(drive.requests)
    third = run_python(CREATE, tmp_path / '3.pt', home=home, GKGNET_TIMM_DRIVE_ENDPOINT='http://127.0.0.1:9')
    assert third.returncode == 0 and len(drive.requests) == asked and not third.stderr, third.stderr
    convert(drive.path, tmp_path / 'converted', model='gkgnet_576')
    model = timm.create_model(f'local-dir:{tmp_path / "converted"}', pretrained=True).eval()
    expected = model(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))
    assert all(torch.equal(torch.load(tmp_path / name), expected) for name in ('1.pt', '2.pt', '3.pt'))


def test_no_network_and_none_allowed(tmp_path):
    """One sentence with all that was tried in order, at once."""
    steps = [
        "installed in '",
        "Hugging Face repository 'a-team/gkgnet_576.coco2014' (Connect",
        'drive.google.com (Connect',
    ]
    done = run_python(CREATE, home=tmp_path, GKGNET_TIMM_HUB_ORG='a-team')
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places) and 'with a browser, then once' in done.stdout and done.stdout.count('\n') == 1
    assert float(done.stderr.split()[-2]) < 5
    body = CREATE.replace("'gkgnet_576'", 'name').replace(
        "sys.exit(f'after {time.perf_counter() - start:.2f} s')", 'continue'
    )
    both = 'for name in ("gkgnet_576", "pvig_ti_224"):\n' + textwrap.indent(body, '    ')
    check_offline(*run_python(both, home=tmp_path, HF_HUB_OFFLINE=1).stdout.splitlines())


def check_offline(gkgnet, *others):
    assert 'HF_HUB_OFFLINE or GKGNET_TIMM_OFFLINE forbids' in gkgnet and 'with a browser' in gkgnet
    for name, said in zip(('pvig_ti_224', 'vig_ti_224'), others):
        assert f' {name}.in1k are not here' in said and 'by other means, then once' in said
        assert said.endswith(f'--model {name}.')


def test_our_own_switch(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'torch'))
    monkeypatch.setenv('GKGNET_TIMM_OFFLINE', '1')
    said = []
    for name in ('gkgnet_576', 'pvig_ti_224', 'vig_ti_224'):
        with pytest.raises(OSError) as error:
            timm.create_model(name, pretrained=True)
        said.append(str(error.value))
    check_offline(*said)


@pytest.fixture
def small(drive, monkeypatch):
    """Published weights of a narrow model, in the place of those of `gkgnet_576`."""
    for width in ('ti', 's'):
        monkeypatch.setitem(VARIANTS[width], 'dims', NARROW)
    torch.save(published_gkgnet(576, 80, 'narrow'), drive.path)
    monkeypatch.setattr(table, '_count_parameters', lambda architecture: 1)  # which would be kept
    return timm.get_pretrained_cfg('gkgnet_576')


def create():
    return timm.create_model('gkgnet_576', pretrained=True).eval()


@pytest.mark.parametrize('answer', ['quota', 'sign in', 'page', 'missing', 'elsewhere', 'wrong length', 'no length'])
def test_refusals(drive, small, tmp_path, answer):
    drive.answer = answer
    with pytest.raises(
        OSError, match='No weights of gkgnet_576.coco2014: installed in .*, from http.*browser'
    ) as error:
        create()
    assert '\n' not in str(error.value) and not installed_file(small).exists()
    drive.answer = None
    assert create()(images(1, 64).float()).isfinite().all()
    assert weights_in(tmp_path / 'cache') == ['model.safetensors']


@pytest.mark.parametrize('content', ['page', 'truncated', 'other', 'nan', 'empty', 'float8', 'of 20 classes'])
def test_damaged_files(drive, small, tmp_path, content):
    good = drive.path.read_bytes()
    if content == 'page':
        drive.path.write_bytes(b'<html>Sign in</html>')
    elif content == 'truncated':
        drive.path.write_bytes(good[:-5000])
    elif content == 'other':
        torch.save(dict(weight=torch.zeros(3)), drive.path)
    elif content == 'empty':
        torch.save({}, drive.path)
    elif content == 'of 20 classes':
        torch.save(published_gkgnet(576, 20, 'narrow'), drive.path)
    elif content == 'float8':
        torch.save(dict(torch.load(drive.path), extra=torch.zeros(3).to(torch.float8_e4m3fn)), drive.path)
    else:
        state = torch.load(drive.path)
        state['backbone.pos_embed'] *= torch.nan
        torch.save(state, drive.path)
    with pytest.raises(ValueError) as error:
        create()
    assert '\n' not in str(error.value) and weights_in(tmp_path / 'cache') == []
    drive.path.write_bytes(good)
    assert torch.equal(create().head_label.weight, load_file(installed_file(small))['head_label.weight'])


def test_the_hash_of_a_contributor_is_enforced(drive, small, tmp_path, monkeypatch):
    source = published.SOURCES[small.url]
    monkeypatch.setitem(published.SOURCES, small.url, source._replace(sha256='0' * 64))
    with pytest.raises(ValueError, match='not the file that the authors published'):
        create()
    assert weights_in(tmp_path / 'cache') == []


def test_records(drive, small, tmp_path):
    with pytest.raises(FileNotFoundError, match='weights install gkgnet_576.coco2014'):
        verify(small)
    order = tmp_path / 'order.txt'
    order.write_text('\n'.join(reversed(COCO_CLASSES)))
    file = install_published(small)
    assert UNVERIFIED in create().pretrained_cfg['notes']
    rows = load_file(file)['head_label.weight']
    record = verify(small)
    wrong = tmp_path / 'wrong.txt'
    wrong.write_text('\n'.join(['human', *COCO_CLASSES[1:]]))
    with pytest.raises(ValueError, match="does not have the class names of .*: 'human', 'person' are in one of them"):
        install_published(small, class_order=wrong)
    assert install_published(small, class_order=order) == file
    assert list(create().pretrained_cfg['notes']) == [VERIFIED]
    assert torch.equal(load_file(file)['head_label.weight'], rows.flip(0))  # in the order of the names of the tag
    assert dict(verify(small), written='') == dict(record, written='')
    with pytest.raises(ValueError, match='has been confirmed'):
        install_published(small, class_order=order)
    record = verify(small)
    assert record['written'] == json.loads((file.parent / 'config.json').read_text())['converted_from']['written']
    file.write_bytes(file.read_bytes()[:-1] + b'x')
    with pytest.raises(ValueError, match='is not what was installed'):
        verify(small)
    (file.parent / 'config.json').unlink()
    with pytest.raises(FileNotFoundError, match='no record'):
        verify(small)


def test_an_order_is_checked_before_the_download(drive, small, tmp_path):
    with pytest.raises(FileNotFoundError, match='order.txt'):
        install_published(small, class_order=tmp_path / 'order.txt')
    (tmp_path / 'order.txt').write_text('person\ncar')
    with pytest.raises(ValueError, match='does not have the class names'):
        install_published(small, class_order=tmp_path / 'order.txt')
    with pytest.raises(ValueError, match='pvig_s_224.in1k has no class names'):
        install_published(tag_of('pvig_s_224'), class_order=tmp_path / 'order.txt')
    assert not drive.requests


def test_a_cache_that_cannot_be_written(drive, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'file'))
    with pytest.raises(OSError, match='Cannot write to .*GKGNET_TIMM_CACHE sets another place'):
        create()
    assert not drive.requests


def test_names_of_weights():
    assert tag_of('gkgnet_576').tag == 'coco2014' and tag_of('pvig_s_224.in1k').architecture == 'pvig_s_224'
    assert tag_of('vig_s_224') == tag_of('vig_s_224.in1k') == timm.get_pretrained_cfg('vig_s_224')
    assert tag_of('gkgnet_448').architecture == tag_of('gkgnet_576.in1k').architecture == 'pvig_s_224'  # the trunk
    for name in ('gkgnet_577', 'gkgnet_448.coco2014', 'resnet50', ''):
        with pytest.raises(ValueError, match=f"called '{name}', but gkgnet_224.in1k, .*gkgnet_576.coco2014"):
            tag_of(name)


def test_the_command(drive, small, tmp_path, capsys):
    installed = str(installed_file(small))

    def run(*argv):
        command(['weights', *argv])
        return capsys.readouterr().out

    def refuse(message, *argv):
        with pytest.raises(SystemExit) as error:
            command(['weights', *argv])
        assert error.value.code == (1 if argv == ('verify',) else 2)
        shown = capsys.readouterr().err
        assert message in shown and shown.count('\n') == 1, shown

    assert '| false | - |' in run() and run('verify') == 'Nothing is installed.\n'
    refuse('are not installed', 'remove', 'gkgnet_576')
    drive.answer = 'quota'
    refuse('downloaded too often today, try again tomorrow. Download https://drive.google.com', 'install', 'gkgnet_576')
    drive.answer = None
    assert installed in run('install', 'gkgnet_576')
    assert f'| false | {installed} |' in run('list')
    assert 'gkgnet_576.coco2014: as installed, SHA-256' in run('verify')
    (tmp_path / 'order.txt').write_text('\n'.join(COCO_CLASSES))
    run('install', 'gkgnet_576', '--class-order', str(tmp_path / 'order.txt'))
    assert f'| true | {installed} |' in run()
    Path(installed).write_bytes(b'x')
    refuse('is not what was installed', 'verify')
    (Path(installed).with_name('config.json')).write_text('[]')
    assert f'| false | {installed} |' in run()
    refuse('has no record of its SHA-256', 'verify')
    assert 'Removed: ' in run('remove', 'gkgnet_576.coco2014') and not Path(installed).parent.exists()
    refuse('say which', 'install')
    refuse('takes no name', 'list', 'gkgnet_576')
    refuse('--class-order is for weights install', 'verify', '--class-order', 'order.txt')


@pytest.mark.parametrize('family, file', [('pvig', 'pvig_ti_78.5.pth.tar'), ('vig', 'vig_ti_74.5.pth')])
def test_a_vig_from_its_address(family, file, tmp_path, monkeypatch):
    """From a file in place of GitHub, and refused as what it is not."""
    name = f'{family}_ti_224'
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    torch.save(published_pvig(1000, 'ti', family=family), tmp_path / file)
    assert tag_of(name).url.endswith(f'/{file}')
    cfg = dataclasses.replace(tag_of(name), url=(tmp_path / file).as_uri())
    target = install_published(cfg)
    assert target.parent.name == f'{family}_ti_{file[len(family) + 4 :][:4]}'
    assert weights_in(tmp_path / 'cache') == ['model.safetensors'] and verify(cfg)['written']
    assert timm.create_model(name, pretrained=True).pretrained_cfg['file'] == str(target)
    assert remove(cfg) == target.parent
    (tmp_path / file).write_text('<html>')
    with pytest.raises(ValueError, match='sent is a web page'):
        install_published(cfg)
    assert weights_in(tmp_path / 'cache') == []
