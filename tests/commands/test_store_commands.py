"""Commands on images at URLs: the same rows as for local files, and no credentials in what they write."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import check_one_line
from stores import ImageServer

import timm

import gkgnet_timm
from gkgnet_timm.__main__ import main
from gkgnet_timm.data import remote

pytest.importorskip('aiohttp')
pytestmark = pytest.mark.filterwarnings('ignore::gkgnet_timm.runtime.FileWarning')
NARROW = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
FLAGS = '--model gkgnet_ti_224 --img-size 32 --device cpu --model-kwargs depths=(1,1,1,1) dims=(8,16,24,32)'.split()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model('gkgnet_ti_224', img_size=32, num_classes=3, **NARROW)
    folder = tmp_path_factory.mktemp('weights')
    torch.save(model.state_dict(), folder / 'weights.pt')
    (folder / 'names.txt').write_text('cat\ndog\nfox\n')
    return ['--checkpoint', str(folder / 'weights.pt'), '--class-map', str(folder / 'names.txt'), *FLAGS]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, 'WAITS', (0.01, 0.02))
    for i in range(6):
        Image.effect_noise((50 + i, 40), 90).convert('RGB').save(f'{i}.png')
    Path('no.png').write_bytes(b'no image')
    with ImageServer(tmp_path) as server:
        yield server


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize('workers', ['0', '2'])
def test_predict(weights, server, capsys, workers):
    """Rows are those of the local files, an interrupted run goes on with new signatures, and nothing shows them."""
    paths = ['0.png', 'broken/2/1.png', '2.png', 'status/404/3.png', 'no.png', '4.png', '5.png']
    names = [f'{server.url}/{path}' for path in paths]

    def write(signature):
        user = server.url.replace('//', f'//{signature}:{signature}@')
        Path('list.txt').write_text('\n'.join(f'{user}/{path}?sig={signature}' for path in paths))

    flags = [*weights, '-b', '2', '-j', workers, '--all-scores']
    write('SECRET')
    with pytest.raises(SystemExit) as stopped:
        main(['predict', 'list.txt', *flags, '--output', 'o.jsonl', '--embeddings', 'e.npz'])
    output = capsys.readouterr()
    assert stopped.value.code == 1 and '2 of 7 images cannot be read.\n' in output.err
    assert f'Cannot read image {names[3]!r}: there is no such file\n' in output.err
    rows = rows_of('o.jsonl')
    assert [row['file'] for row in rows] == names
    assert [name for name, row in zip(names, rows) if 'error' in row] == [names[3], names[4]]
    assert list(np.load('e.npz')['files']) == [name for name in names if name not in (names[3], names[4])]
    written = [Path(name).read_bytes() for name in os.listdir() if name.startswith(('o.', 'e.'))]
    assert 'SECRET' not in output.out + output.err and not any(b'SECRET' in content for content in written)

    main(['predict', '0.png', '1.png', *flags, '--output', 'local.jsonl'])
    assert [row['labels'] for row in rows_of('local.jsonl')] == [row['labels'] for row in rows[:2]]

    whole = Path('o.jsonl').read_bytes()
    for run in (True, False):
        Path('o.jsonl').write_bytes(b''.join(whole.splitlines(keepends=True)[:3]))
        if not run:
            os.unlink('o.jsonl.run.json')  # the last batch is read again, by its new signature
        server.requests.clear()
        write(f'SECRET{run}')
        with pytest.raises(SystemExit):
            main(['predict', 'list.txt', *flags, '--output', 'o.jsonl', '--resume'])
        assert Path('o.jsonl').read_bytes() == whole
        assert (f'/0.png?sig=SECRET{run}' in server.requests) != run
    assert 'SECRET' not in ''.join(capsys.readouterr())


def test_a_store_that_is_gone(weights, server, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(['predict', 'http://127.0.0.1:1/0.png', *weights, '--output', 'o.csv'])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and '1 of 1 images cannot be read. As that is all of them: is the store' in error
    assert 'Cannot connect to host 127.0.0.1:1' in Path('o.csv').read_text()


def test_explain(weights, server):
    url = f'{server.url}/0.png?sig=SECRET'
    flags = '--topk 1 --format png'.split()
    main(['explain', url, *weights, *flags, '--output', 'remote'])
    main(['explain', '0.png', *weights, *flags, '--output', 'local'])
    assert Path('remote/0.json').read_text() == Path('local/0.json').read_text()
    model = timm.create_model('gkgnet_ti_224', img_size=32, num_classes=3, **NARROW)
    assert gkgnet_timm.explain(model, url, topk=1).file == f'{server.url}/0.png'
    with pytest.raises(gkgnet_timm.data.BadImageError, match="/none.png': there is no such file$"):
        gkgnet_timm.explain(model, f'{server.url}/none.png?sig=SECRET', topk=1)


def test_in_python(server):
    """Also where the name that is shown is that of several images."""
    model = timm.create_model('gkgnet_ti_224', img_size=32, num_classes=3, **NARROW)
    urls = [f'{server.url}/0.png?page=1', f'{server.url}/0.png?page=2', 'no.png']
    found = list(gkgnet_timm.predict_images(model, urls, find=False, device='cpu'))
    assert [file for file, _, _ in found] == [f'{server.url}/0.png', f'{server.url}/0.png', 'no.png']
    assert [bool(error) for _, _, error in found] == [False, False, True]
    assert set(server.requests) == {'/0.png?page=1', '/0.png?page=2'}


@pytest.mark.parametrize(
    'argv, message',
    [
        ('predict URL --sidecar', '--sidecar: .*0.png. is a URL, beside which nothing can be written'),
        ('predict 0.png --output https://host/o.csv', '--output is a URL: give a local path'),
        ('explain 0.png --output https://host/out', '--output is a URL: give a local path'),
        ('predict simplecache::URL', 'simplecache::...: caches and archives'),
        ('predict dropbox://0.png', 'pip install dropboxdrivefs$'),
    ],
)
def test_what_is_refused(argv, message, weights, server, capsys):
    check_one_line(
        [*argv.replace('URL', f'{server.url}/0.png').split(), *weights], message.replace('$', r'\.$'), capsys
    )


@pytest.mark.parametrize('flags', ['--data-dir s3://bucket/coco', '--data-dir . --split s3://bucket/val.csv'])
def test_data_sets_are_local(flags, weights, tmp_path, capsys):
    name = 'csv' if 'csv' in flags else 'coco'
    argv = ['validate', *weights[:2], *weights[4:], '--dataset', name, *flags.split()]
    check_one_line(argv, f'--dataset {name} is read from local folders.*: copy them first', capsys)
