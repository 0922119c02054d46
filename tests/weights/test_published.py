"""The published weights in one line: downloaded, converted and installed by the first process that asks for them."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fake_drive import FakeDrive
from fake_hub import run_python
from filler import NARROW, mmcls, published_gkgnet
from safetensors.torch import load_file
from tiny import images

import timm

from gkgnet_timm.class_names import COCO_CLASSES, UNVERIFIED, VERIFIED
from gkgnet_timm.weights import published
from gkgnet_timm.weights.published import install_published, verify
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
    command = [sys.executable, '-m', 'gkgnet_timm', 'convert', drive.path, '--model', 'gkgnet_576', '--output']
    subprocess.run([*command, tmp_path / 'converted'], check=True, capture_output=True)
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
    trunk = CREATE.replace('gkgnet_576', 'pvig_ti_224')
    for variable in ('HF_HUB_OFFLINE', 'GKGNET_TIMM_OFFLINE'):
        done = run_python(CREATE, home=tmp_path, **{variable: '1'})
        assert variable in done.stdout and 'with a browser' in done.stdout and 'Connect' not in done.stdout
        done = run_python(trunk, home=tmp_path, **{variable: '1'})
        assert 'pvig_ti_224.in1k are not here' in done.stdout and 'by other means, then once' in done.stdout


@pytest.fixture
def small(drive, monkeypatch):
    """Published weights of a narrow model, and its name in a registry of its own."""
    torch.save(published_gkgnet(64, 80, 'narrow'), drive.path)
    convert = published.convert
    options = dict(img_size=64, dims=NARROW)
    monkeypatch.setattr(published, 'convert', lambda *args, **kwargs: convert(*args, **kwargs, model_kwargs=options))
    return timm.get_pretrained_cfg('gkgnet_576')


def create():
    return timm.create_model('gkgnet_576', pretrained=True, img_size=64, dims=NARROW).eval()


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


@pytest.mark.parametrize('content', ['page', 'truncated', 'other', 'nan'])
def test_damaged_files(drive, small, tmp_path, content):
    good = drive.path.read_bytes()
    if content == 'page':
        drive.path.write_bytes(b'<html>Sign in</html>')
    elif content == 'truncated':
        drive.path.write_bytes(good[:-5000])
    elif content == 'other':
        torch.save(dict(weight=torch.zeros(3)), drive.path)
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
    with pytest.raises(ValueError, match='another one than the authors have published'):
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
    assert install_published(small, class_order=order, again=True) == file
    assert list(create().pretrained_cfg['notes']) == [VERIFIED]
    assert torch.equal(load_file(file)['head_label.weight'], rows.flip(0))  # in the order of the names of the tag
    record = verify(small)
    assert record['written'] == json.loads((file.parent / 'config.json').read_text())['converted_from']['written']
    file.write_bytes(file.read_bytes()[:-1] + b'x')
    with pytest.raises(ValueError, match='is not what was installed'):
        verify(small)
    (file.parent / 'config.json').unlink()
    with pytest.raises(FileNotFoundError, match='no record'):
        verify(small)
