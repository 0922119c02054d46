"""predict as several processes: the rows of one, whatever happens to some of them."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, save_image
from runs import NARROW_MODEL, check_one_line
from serving import command, ranks_of_torchrun

import timm

from gkgnet_timm.inference import precision
from gkgnet_timm.runtime import locked

MODEL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3, img_size=32, num_classes=4)
FLAGS = ['--checkpoint', 'weights.pth', '--model', 'gkgnet_ti_224', '--img-size', '32', '--class-map', 'names.txt']
FLAGS += [*NARROW_MODEL, '-j', '0', '-b', '2', '--device', 'cpu', '--threshold', '1e-9']
IMAGES = 11


@pytest.fixture(scope='module')
def folder(tmp_path_factory, server):
    """Weights, images of which 3.png cannot be read, and the rows of one process."""
    folder = tmp_path_factory.mktemp('processes')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        state = timm.create_model('gkgnet_ti_224', **MODEL).state_dict()
        for key in ('head_label.weight', 'head_patch.weight'):
            state[key].mul_(0.02)
        torch.save(state, 'weights.pth')
        Path('names.txt').write_text('a\nb\nc\nd\n')
        for i in range(IMAGES):
            save_image(folder / 'a' / f'{i:02d}.png', i)
        Path('a/03.png').write_bytes(b'no image')
        names = sorted(os.listdir('a'))
        for i, (start, end) in enumerate([(0, 3), (3, 4), (4, 9), (9, 11)]):
            with tarfile.open(f'x-{i}.tar', 'w') as tar:
                for name in names[start:end]:
                    tar.add(f'a/{name}', name)
        for form in ('csv', 'json', 'jsonl'):
            assert run(server, folder, 1, 'a', '--output', f'one.{form}')[0].code == 1
        yield folder


def predict_in(folder, *argv):
    """Run predict there, with an image more for process 1 if it is asked for."""
    os.chdir(folder)
    torch.set_num_threads(1)
    precision.speed_of_half = lambda *_: 1.0 + int(os.environ.get('RANK', '0'))  # the first finds no use in --amp
    argv = [name for name in argv if name != 'more' or os.environ.get('RANK') == '1']
    command('predict', *argv)


def run(server, folder, processes, *argv, flags=FLAGS):
    """Run predict as some processes; the first to fail ends the others, as under torchrun."""
    environments = ranks_of_torchrun(processes) if processes > 1 else [{}]
    return server.call_together(environments, predict_in, str(folder), *argv, *flags)


def ended(results, code):
    """Whether processes ended with an exit code, or were ended at their end by another that did."""
    codes = {result.code for result in results}
    return code in codes and codes <= {code, -signal.SIGKILL}


def files_of(name):
    return sorted(path.name for path in Path('.').glob(f'{name}.*'))


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    yield
    for path in folder.glob('*o.*'):
        path.unlink()
    assert not list(folder.glob('.*'))  # neither locks nor drafts


@pytest.mark.parametrize('processes, form', [(2, 'csv'), (2, 'json'), (7, 'jsonl')])
def test_rows_are_those_of_one_process(processes, form, folder, server):
    """Seven processes are more than there are batches."""
    results = run(server, folder, processes, 'a', '--output', f'o.{form}')
    assert ended(results, 1), results
    assert Path(f'o.{form}').read_bytes() == Path(f'one.{form}').read_bytes()
    assert files_of('o') == [f'o.{form}'] + [f'o.{form}.run.json'] * (form != 'json')
    printed = ''.join(result.stderr for result in results)
    assert printed.count("Cannot read image 'a/03.png'") == 1
    assert results[0].stderr.endswith('1 of 11 images cannot be read.\n') and printed.count('1 of 11') == 1
    if form == 'json':
        return
    before = Path(f'o.{form}').stat().st_mtime_ns
    results = run(server, folder, processes, 'a', '--output', f'o.{form}', '--resume')
    assert ended(results, 1) and '1 of 11' in results[0].stderr
    assert Path(f'o.{form}').stat().st_mtime_ns == before
    results = run(server, folder, processes, 'a', '--output', f'o.{form}', '--resume', '--topk', '1')
    assert f"'o.{form}' was begun with other topk" in results[0].stderr
    (result,) = run(server, folder, 1, 'a', '--output', f'o.{form}', '--resume')
    assert result.code == 1 and Path(f'o.{form}').read_bytes() == Path(f'one.{form}').read_bytes()


def test_parts_stay_and_are_continued(folder, server):
    flags = ['a', '--output', 'o.jsonl', '--parts', '--sidecar']
    results = run(server, folder, 2, *flags)
    assert ended(results, 1), results
    parts = [f'o.part-{i}-of-2.jsonl' for i in range(2)]
    assert files_of('o') == sorted([*parts, *(f'{part}.run.json' for part in parts)])
    rows = [Path(part).read_bytes().splitlines(keepends=True) for part in parts]
    whole = Path('one.jsonl').read_bytes().splitlines(keepends=True)
    assert rows == [whole[0:2] + whole[4:6] + whole[8:10], whole[2:4] + whole[6:8] + whole[10:]]
    texts = sorted(Path('a').glob('*.txt'))
    assert (
        len(texts) == IMAGES - 1
        and texts[0].read_text() == ', '.join(label['label'] for label in json.loads(whole[0])['labels']) + '\n'
    )
    for text in texts:
        text.unlink()
    Path(parts[1]).write_bytes(Path(parts[1]).read_bytes()[:-3])
    results = run(server, folder, 2, *flags[:-1], '--resume')
    assert ended(results, 1), results
    assert [Path(part).read_bytes().splitlines(keepends=True) for part in parts] == rows


def test_streams_are_joined_in_the_order_of_their_shards(folder, server):
    stream = ['wds/x-{0..3}.tar', '--output']
    (alone,) = run(server, folder, 1, *stream, 'alone_o.csv')
    results = run(server, folder, 2, *stream, 'o.csv', '-j', '1')
    assert alone.code == 1 and ended(results, 1), (alone, results)
    whole = Path('alone_o.csv').read_bytes()
    assert Path('o.csv').read_bytes() == whole and whole.count(b'\n') == 1 + IMAGES
    assert b'\nx-0.tar/02.png,' in whole and b'\nx-1.tar/03.png,,,it is not an image of a known format\n' in whole
    Path('alone_o.csv').write_bytes(whole[: 2 * len(whole) // 3])
    (alone,) = run(server, folder, 1, *stream, 'alone_o.csv', '--resume')
    assert alone.code == 1 and '1 of 11' in alone.stderr and Path('alone_o.csv').read_bytes() == whole
    # a part that was cut off, of shards 1 and 3
    Path('o.csv').unlink()
    assert ended(run(server, folder, 2, *stream, 'o.csv', '--parts'), 1)
    part = Path('o.part-1-of-2.csv')
    part.write_bytes(part.read_bytes()[:-40])
    assert ended(run(server, folder, 2, *stream, 'o.csv', '--resume'), 1)
    assert Path('o.csv').read_bytes() == whole and files_of('o') == ['o.csv', 'o.csv.run.json']


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='Linux has a disk that is full')
def test_a_process_that_fails_leaves_the_others_to_end(folder, server):
    os.symlink('/dev/full', 'o.part-1-of-2.csv')
    results = run(server, folder, 2, 'a', '--output', 'o.csv')
    assert ended(results, 2), results
    assert 'Process 1 has failed, the others go on: [Errno 28] No space left on device\n' in results[1].stderr
    assert results[0].stderr.endswith('error: process 1: [Errno 28] No space left on device\n')
    assert len(Path('o.part-0-of-2.csv').read_bytes().splitlines()) == 1 + 6 and not os.path.exists('o.csv')
    os.unlink('o.part-1-of-2.csv')
    results = run(server, folder, 2, 'a', '--output', 'o.csv', '--resume')
    assert ended(results, 1), results
    assert Path('o.csv').read_bytes() == Path('one.csv').read_bytes()


def test_what_fails_at_once_is_said_once_and_touches_nothing(folder, server):
    Path('o.part-0-of-3.csv').touch()
    cases = [
        (['a', '--output', 'o.csv', '--resume'], "'o.part-0-of-3.csv' is of 3 processes, this run has 2. Start 3"),
        (['a', '--output', 'one.csv', '--resume'], "'one.csv' is of one process. Continue with one"),
        (['a'], '--output FILE is needed with 2 processes'),
        (['a', 'more', '--output', 'o.csv'], 'The processes find different images'),
        (['a', '--output', 'no_o.csv', '--checkpoint', 'nope.pth'], "'nope.pth' does not exist"),
    ]
    Path('more').touch()
    for argv, message in cases:
        flags = FLAGS[2:] if '--checkpoint' in argv else FLAGS
        results = run(server, folder, 2, *argv, flags=flags)
        assert ended(results, 2), (argv, results)
        printed = results[0].stderr + results[1].stderr
        assert printed.count('\n') == 1 and printed.startswith('error: ') and message in printed, (argv, printed)
    with locked(folder, 'predict', 'o.csv'):  # by another run
        results = run(server, folder, 2, 'a', '--output', 'o.csv')
    assert re.fullmatch("error: process 0: Another predict is at work on '.*/o.csv': .*\n", results[0].stderr), results
    assert files_of('o') == ['o.part-0-of-3.csv']


def test_the_first_process_decides_for_half_precision(folder, server):
    results = run(server, folder, 2, 'a', '--output', 'o.csv', '--amp', 'auto')
    assert ended(results, 1) and '--amp auto: float32' in results[0].stderr and '--amp' not in results[1].stderr
    assert Path('o.csv').read_bytes() == Path('one.csv').read_bytes()


def test_flags_that_need_one_process(capsys):
    parts = ['predict', 'a', *FLAGS, '--parts']
    check_one_line(parts, '--output FILE is needed with --parts', capsys)
    check_one_line([*parts, '--output', 'o.txt', '--format', 'table'], '--format table: not with --parts', capsys)
    check_one_line([*parts, '--output', 'o.csv', '--embeddings', 'o.npz'], '--embeddings: not with --parts', capsys)
    for flag in (['--embeddings', 'o.npz'], ['--sidecar']):
        check_one_line(['predict', 'wds/x-0.tar', *FLAGS, *flag], f'{flag[0]}: not for streams', capsys)


@pytest.fixture
def torchrun():
    """Starts predict as two processes."""
    started = []

    def start(*argv):
        launcher = '-m torch.distributed.run --standalone --nproc_per_node 2 -m gkgnet_timm predict'.split()
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
        argv = [sys.executable, *launcher, *argv, *FLAGS]
        started.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # it ends its own


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_a_killed_process_under_torchrun(folder, torchrun):
    """Process 1 waits for an image that never comes, and is killed; the rows of both are continued."""
    os.rename('a/10.png', 'kept.png')
    os.mkfifo('a/10.png')
    Path('list.txt').write_text('\n'.join(f'a/{i:02d}.png' for i in range(IMAGES)))
    flags = ['list.txt', '--output', 'o.csv']
    launched = torchrun(*flags)
    parts = [Path(f'o.part-{i}-of-2.csv') for i in range(2)]
    deadline = time.monotonic() + 60
    while [part.exists() and part.read_text().count('\n') for part in parts] != [7, 3]:
        assert launched.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (killed,) = [path.parent for path in Path('/proc').glob('[0-9]*/environ') if is_process_1(path, launched.pid)]
    os.kill(int(killed.name), signal.SIGKILL)
    error = launched.communicate()[1]
    assert launched.returncode == 1 and 'Signal 9 (SIGKILL)' in error and not os.path.exists('o.csv')
    os.unlink('a/10.png')
    os.rename('kept.png', 'a/10.png')

    launched = torchrun(*flags, '--resume')
    error = launched.communicate()[1]
    assert launched.returncode == 1 and '1 of 11 images cannot be read.' in error
    assert Path('o.csv').read_bytes() == Path('one.csv').read_bytes()
    assert files_of('o') == ['o.csv', 'o.csv.run.json']


def is_process_1(path, parent):
    try:
        variables, status = path.read_bytes().split(b'\0'), (path.parent / 'status').read_text()
    except OSError:  # of another user, or gone
        return False
    return b'RANK=1' in variables and f'PPid:\t{parent}\n' in status
