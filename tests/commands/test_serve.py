"""The command `serve`: its flags, what it says, and how it ends."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import torch
import uvicorn
from conftest import ROOT
from fastapi.testclient import TestClient
from runs import check_one_line
from uploads import jpeg, post

import timm

from gkgnet_timm.__main__ import main
from gkgnet_timm.export.export import export_model
from gkgnet_timm.serving import server


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), folder / 'weights.pth')
    (folder / 'names.txt').write_text('cat\ndog\ncow\n')
    flags = ['--checkpoint', str(folder / 'weights.pth'), '--model', 'test_resnet', '--device', 'cpu']
    return ['serve', *flags, '--class-map', str(folder / 'names.txt')]


@pytest.fixture
def served(monkeypatch):
    """Applications that commands would serve."""
    apps = []
    monkeypatch.setattr(server, 'run', lambda app, address: apps.append(app) or address.close())
    return apps


def test_flags(weights, served, tmp_path):
    thresholds = tmp_path / 'thresholds.json'
    thresholds.write_text(json.dumps(dict(classes=dict(cat=0.1, dog=0.2, cow=0.3))))
    flags = ['--threshold', str(thresholds), '--max-upload-mb', '0.5', '--max-pixels', '5000', '--queue', '7']
    main([*weights, '--port', '0', '--img-size', '64', '--background', 'black', *flags])
    with TestClient(served[0]) as client:
        about = client.get('/model').json()
        assert about['name'] == 'test_resnet' and about['thresholds'] == dict(cat=0.1, dog=0.2, cow=0.3)
        assert about['calibrated'] and not about['label_graph']
        assert about['limits'] == dict(upload_bytes=500_000, pixels=5000, files=3)
        assert about['preprocessing']['size'] == [64, 64] and 'black' in about['preprocessing']['reading']
        assert set(post(client, [('a.jpg', jpeg())]).json()[0]['scores']) == {'cat', 'dog', 'cow'}


def test_defaults(weights, served):
    main([*weights, '--port', '0'])
    with TestClient(served[0]) as client:
        about = client.get('/model').json()
    assert about['limits'] == dict(upload_bytes=32_000_000, pixels=50_000_000, files=32)
    assert set(about['thresholds'].values()) == {0.5} and not about['calibrated']


@pytest.mark.parametrize('flags, amp', [([], False), (['--amp'], True)])
def test_precision_is_not_that_of_the_checkpoint(served, flags, amp, monkeypatch, tmp_path):
    options, checkpoint = {}, str(tmp_path / 'checkpoint.pth.tar')
    trained = dict(model='test_resnet', model_kwargs={}, img_size=None, class_names=['cat', 'dog'], amp=True)
    torch.save(dict(args=trained, state_dict=timm.create_model('test_resnet', num_classes=2).state_dict()), checkpoint)
    create = server.create_server
    monkeypatch.setattr(server, 'create_server', lambda *args, **how: options.update(how) or create(*args, **how))
    main(['serve', '--checkpoint', checkpoint, '--device', 'cpu', '--port', '0', *flags])
    assert options['amp'] is amp and options['name'] == 'test_resnet'


def test_the_name_of_an_exported_model(served, tmp_path):
    """An exported model has the name of its architecture."""
    model = timm.create_model('test_resnet', num_classes=3).eval()
    export_model(model, tmp_path, formats=('pt2',))
    main(['serve', '--checkpoint', str(tmp_path / 'model.pt2'), '--device', 'cpu', '--port', '0'])
    with TestClient(served[0]) as client:
        assert client.get('/model').json()['name'] == 'test_resnet'


def test_a_port_in_use(weights, capsys):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        check_one_line([*weights, '--port', port], f'127.0.0.1, port {port}: .*in use', capsys)


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--port', '70000'], '--port must be from 0 to 65535, got 70000'),
        (['--queue', '0'], '--queue must be at least 1|--queue must be from 1'),
        (['--max-upload-mb', '0'], '--max-upload-mb'),
        (['--host', 'no such host'], 'Cannot listen on no such host'),
        (['--host', '192.0.2.1'], 'Cannot listen on 192.0.2.1'),
        (['--background', 'nonsense'], '--background'),
        (['--threshold', '2'], '--threshold must be'),
        (['--class-map', 'missing.txt'], 'missing.txt'),
        (['--checkpoint', 'missing.pth'], 'missing.pth'),
        (['--on-bad-image', 'skip'], 'unknown: '),
    ],
)
def test_errors(weights, flags, message, capsys):
    port = [] if '--port' in flags else ['--port', '0']
    check_one_line([*weights, *port, *flags], message, capsys)


@pytest.mark.parametrize('package', ['fastapi', 'uvicorn', 'python_multipart'])
def test_without_the_extra(weights, package, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr('gkgnet_timm.commands.serve.find_spec', lambda name: None if name == package else find(name))
    check_one_line(weights, f"{package}: pip install 'gkgnet-timm\\[serve\\]'", capsys)


@pytest.mark.parametrize('host, is_open', [('127.0.0.1', False), ('localhost', False), ('0.0.0.0', True)])
def test_who_can_reach_it(host, is_open, capsys, monkeypatch):
    monkeypatch.setattr(uvicorn.Server, 'run', lambda self, sockets: None)
    with server.bind(host, 0) as address:
        server.run(None, address)
    captured = capsys.readouterr()
    assert captured.out.startswith('Listening on http://') and captured.out.count('\n') == 1
    assert ('asks for no password' in captured.err) == is_open


@pytest.mark.skipif(sys.platform == 'win32', reason='no signal of Ctrl-C to one process')
@pytest.mark.parametrize('before', [signal.default_int_handler, signal.SIG_IGN], ids=['terminal', 'background'])
def test_until_ctrl_c(before, weights, tmp_path):
    """It says where it listens once it does, and ends without a traceback. In scripts `&` ignores Ctrl-C at first."""
    before = signal.signal(signal.SIGINT, before)  # which the process inherits
    process = subprocess.Popen(
        [sys.executable, '-m', 'gkgnet_timm', *weights, '--port', '0'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    signal.signal(signal.SIGINT, before)
    try:
        line = process.stdout.readline()
        assert line.startswith('Listening on http://127.0.0.1:'), line + process.stderr.read()
        with urllib.request.urlopen(f'{line.split()[2]}/model', timeout=30) as answer:
            assert json.load(answer)['class_names'] == ['cat', 'dog', 'cow']
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, 'Stopped.\n', '')
