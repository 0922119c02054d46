"""The page of troubles: each message quoted by hand is provoked, and the list below them is that of the code."""

import ast
import contextlib
import io
import logging
import re
import runpy
import socket
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, save_image
from fake_drive import FakeDrive
from filler import NARROW, published_pvig
from PIL import Image
from runs import NARROW_MODEL

import timm

import gkgnet_timm
from gkgnet_timm.__main__ import main
from gkgnet_timm.graph import cpu, gpu
from gkgnet_timm.inference import precision
from gkgnet_timm.runtime import locked

pytestmark = pytest.mark.usefixtures('no_curves')

SCRIPT = runpy.run_path(str(ROOT / 'docs' / 'make_troubleshooting.py'))
PAGE = SCRIPT['PAGE'].read_text(encoding='utf-8')
BY_HAND = PAGE.partition(SCRIPT['MARK'])[0]
SECTIONS = dict(part.split('\n', 1) for part in re.split(r'^### ', BY_HAND, flags=re.M)[1:])
NAMES = ('cat', 'cow', 'dog')
TRAIN = '--data-dir photos --train-split labels.csv --img-size 32 -b 4 --epochs 1 -j 0 --device cpu'
TRAIN = ['train', *TRAIN.split(), *NARROW_MODEL, '--model', 'gkgnet_ti_224']
VAL = ['--val-split', 'val.csv']
RUN = 'output/train/first'
BEST = f'{RUN}/model_best.pth.tar'


def messages_of(section):
    """The paragraphs of a section that are code and nothing else."""
    paragraphs = re.split(r'\n\s*\n', section)
    return [' '.join(text.strip('`').split()) for text in map(str.strip, paragraphs) if re.fullmatch(r'`[^`]+`', text)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Photos, tables of them, and a run that was trained on them."""
    root = tmp_path_factory.mktemp('troubles')
    rows = [f'{i}.png,{NAMES[i % 3]}' for i in range(12)]
    for i in range(12):
        save_image(root / 'photos' / f'{i}.png', i)
    (root / 'labels.csv').write_text('\n'.join(['file,labels', *rows[:8]]))
    (root / 'val.csv').write_text('\n'.join(['file,labels', *rows[8:]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main([*TRAIN, *VAL, '--experiment', 'first'])
    return root


def run(*argv):
    """Type a command; return what it prints and its error."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main([str(word) for word in argv])
    return out.getvalue()


def error_of(function, *args, **kwargs):
    with pytest.raises((OSError, ValueError, RuntimeError)) as error:
        function(*args, **kwargs)
    return str(error.value)


def unknown_model(patch):
    with patch.context() as without:
        without.delitem(timm.models._registry._model_entrypoints, 'gkgnet_576')  # as before `import gkgnet_timm`
        yield error_of(timm.create_model, 'gkgnet_576')
    yield run(*TRAIN, *VAL, '--model', 'gkgnet_567')


def unknown_flag(patch):
    yield run('train', '--lerning-rate', '1')
    yield run('predict', 'photos', '--amp=fast')
    yield run(*TRAIN, *VAL, '--device', 'gpu')


def missing_images(patch):
    Path('gone.csv').write_text('file,labels\n0.png,cat\n1.PNG,dog\n')
    yield run(*TRAIN, *VAL, '--train-split', 'gone.csv')


def unreadable_images(patch):
    Path('photos/broken.png').write_bytes(b'not an image')
    Path('broken.csv').write_text('file,labels\n0.png,cat\n1.png,cow\nbroken.png,dog\n')
    yield run(*TRAIN, *VAL, '--train-split', 'broken.csv', '-b', '3')
    yield run('predict', 'photos/broken.png', 'photos/0.png', '--checkpoint', BEST)
    Path('photos/broken.png').unlink()
    Image.new('1', (20000, 20000)).save('photos/large.png')
    yield run('predict', 'photos/large.png', '--checkpoint', BEST)
    Path('photos/large.png').unlink()


def class_names(patch):
    Path('other.csv').write_text('file,labels\n0.png,cat\n1.png,Dog\n')
    yield run(*TRAIN, '--val-split', 'other.csv')


def same_images(patch):
    yield run(*TRAIN, '--val-split', 'labels.csv')


def no_negatives(patch):
    Path('all.csv').write_text('file,cat,dog\n0.png,1,-1\n1.png,-1,1\n')
    yield run(*TRAIN, '--train-split', 'all.csv', '--unknown-labels', 'ignore', '--no-val', '-b', '2')


def image_size(patch):
    yield run(*TRAIN, *VAL, '--img-size', '100')
    yield error_of(timm.create_model('pvig_ti_224', dims=NARROW), torch.zeros(1, 3, 100, 100))


def not_finite(patch):
    bad = ['--opt', 'sgd', '--clip-grad', '0', '--warmup-epochs', '0', '--lr', '1e30']
    yield run(*TRAIN, *VAL, *bad, '--max-bad-steps', '0')
    yield run(*TRAIN, *VAL, *bad)
    yield run(*TRAIN, *VAL, '--warmup-epochs', '0', '--lr', '0.5', '--epochs', '3')


def near_chance(patch):
    yield run(*TRAIN, *VAL)


def permuted(patch):
    rng = np.random.default_rng(0)
    targets = (rng.uniform(size=(400, 4)) < 0.3).astype(np.int8)
    scores = rng.uniform(0, 0.4, targets.shape) + 0.5 * targets[:, [1, 2, 3, 0]]
    files = [f'{i}.png' for i in range(len(targets))]
    np.savez('scores.npz', scores=scores, targets=targets, classes=['cat', 'cow', 'dog', 'emu'], files=files)
    yield run('validate', '--scores-in', 'scores.npz')


def killed(patch):
    yield run(*TRAIN, *VAL, '--experiment', 'first')
    with locked(RUN, 'train'):
        yield run(*TRAIN, *VAL, '--experiment', 'first')


def resume_refused(patch):
    yield run('train', '--resume', RUN, '--opt', 'sgd')
    predict = ['predict', 'photos', '--checkpoint', BEST, '-j', '0', '--output', 'rows.csv']
    run(*predict, '--threshold', '0.1')
    yield run(*predict, '--threshold', '0.2', '--resume')


def no_weights(patch):
    yield run('predict', 'photos', '--model', 'gkgnet_224')
    yield run('predict', 'photos', '--checkpoint', 'nowhere.pth.tar')


def other_classes(patch):
    yield error_of(gkgnet_timm.load_model, BEST, num_classes=5)
    torch.save(published_pvig(variant='narrow'), 'pvig.pth')
    with _logged() as text:
        options = dict(dims=NARROW, pretrained_cfg_overlay=dict(file='pvig.pth', url=''))
        timm.create_model('gkgnet_ti_224', pretrained=True, **options)
    yield text.getvalue()


def damaged(patch):
    Path('cut.pth.tar').write_bytes(Path(BEST).read_bytes()[:50_000])
    yield run('predict', 'photos', '--checkpoint', 'cut.pth.tar')
    Path('page.pth').write_text('<!DOCTYPE html><html><body>Sign in</body></html>')
    yield run('predict', 'photos', '--model', 'gkgnet_224', '--checkpoint', 'page.pth')


def offline(patch):
    patch.setenv('GKGNET_TIMM_OFFLINE', '1')
    patch.setenv('GKGNET_TIMM_CACHE', 'empty')
    yield error_of(timm.create_model, 'pvig_s_224', pretrained=True)


def quota(patch):
    patch.setenv('GKGNET_TIMM_CACHE', 'empty')
    with FakeDrive(Path('GKGNet-576.pth')) as drive:
        drive.answer = 'quota'
        patch.setenv('GKGNET_TIMM_DRIVE_ENDPOINT', drive.endpoint)
        yield error_of(timm.create_model, 'gkgnet_576', pretrained=True)


def no_compiler(patch):
    patch.setenv('CC', 'cc-that-fails')
    cpu._load_kernels.cache_clear()
    with _logged() as text:
        cpu._load_kernels()
    cpu._load_kernels.cache_clear()
    patch.setattr(cpu, '_problem', '')
    yield text.getvalue()


def gpu_kernels(patch):
    kernels = type(sys)('gkgnet_timm.graph.gpu_kernels')
    kernels.launch_search = lambda x, y, dilation, position, out: out.zero_()
    patch.setitem(sys.modules, kernels.__name__, kernels)
    patch.setattr(kernels.__name__, kernels, raising=False)
    for name, value in dict(_usable=True, _checked=False, _problem='').items():
        patch.setattr(gpu, name, value)
    with _logged() as text:
        gpu.search(torch.zeros(1, 2, 8), torch.zeros(1, 9, 8), 2, 1, 1, None, None)
    yield text.getvalue()


def slow_half_precision(patch):
    patch.setattr(precision, 'speed_of_half', lambda device, amp_dtype: 0.4)
    out = io.StringIO()
    with contextlib.redirect_stderr(out):
        precision.choose_amp(True, 'bfloat16', torch.device('cpu'))
        precision.choose_amp('auto', 'bfloat16', torch.device('cpu'))
    yield out.getvalue()


def missing_package(patch):
    for name, argv in dict(
        fastapi=['serve', '--checkpoint', BEST], iterstrat=['split', 'labels.csv', '--output', 'x']
    ).items():
        for module in [name, *(module for module in sys.modules if module.startswith(f'{name}.'))]:
            patch.setitem(sys.modules, module, None)
        yield run(*argv)


def opset(patch):
    pytest.importorskip('onnxscript')
    yield run('export', '--checkpoint', BEST, '--output', 'deployed', '--format', 'onnx', '--opset', '5')


def port(patch):
    pytest.importorskip('fastapi')
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        yield run('serve', '--checkpoint', BEST, '--port', other.getsockname()[1])


def no_label_graph(patch):
    yield error_of(gkgnet_timm.explain, timm.create_model('pvig_ti_224', num_classes=3, dims=NARROW), 'photos/0.png')


@contextlib.contextmanager
def _logged():
    """What loggers and `warnings` say."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield text
        text.write('\n'.join(str(warning.message) for warning in caught))
    finally:
        logging.getLogger().removeHandler(handler)


CASES = {
    'Unknown model': unknown_model,
    'Unknown flags and values': unknown_flag,
    'A package is missing': missing_package,
    'No C compiler, or one that fails': no_compiler,
    'GPU kernels fail the check': gpu_kernels,
    'Slow on a CPU': slow_half_precision,
    'The loss is nan': not_finite,
    'The mAP is near chance': near_chance,
    'Labels look permuted': permuted,
    'Images that do not exist': missing_images,
    'Images that cannot be read': unreadable_images,
    'Classes of evaluation and training differ': class_names,
    'Training and evaluation images are the same': same_images,
    'Nothing is known to be absent': no_negatives,
    'Sizes that do not fit': image_size,
    'No weights, or a path that is wrong': no_weights,
    'Weights of other classes': other_classes,
    'A damaged file': damaged,
    'No network': offline,
    'Google Drive refuses': quota,
    'A run was killed': killed,
    'Resumption is refused': resume_refused,
    'An operator set that is not available': opset,
    'The port is taken': port,
    'No label graph': no_label_graph,
}


@pytest.mark.parametrize('title', CASES)
def test_messages_are_those_of_the_program(title, folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = ' '.join(' '.join(CASES[title](monkeypatch)).split())
    messages = messages_of(SECTIONS[title])
    assert messages
    for message in messages:
        assert re.search('.*'.join(map(re.escape, message.split('…'))), said), (message, said)


def test_every_message_by_hand_is_provoked():
    assert {title for title, text in SECTIONS.items() if messages_of(text)} == set(CASES)


def test_list_is_that_of_the_code():
    assert SCRIPT['make_page'](PAGE) == PAGE, 'run docs/make_troubleshooting.py'


def test_messages_that_are_collected():
    collect, code = (
        SCRIPT['collect'],
        """
WHAT = 'a file'
def f(path, n):
    if n:
        raise ValueError(f'{path!r} is not {WHAT}, got {n + 1}.')
    warnings.warn('Slow.', FileWarning)
    print(f'Warning: {len(path)} are {"one" if n else "two"}.')
    print('All is well.')
    raise KeyError('of Python')
    raise ValueError(f'{path}: {n}')
""",
    )
    tree = ast.parse(code)
    said = [(message.text, message.is_warning) for message in collect('a', tree, SCRIPT['_constants'](tree))]
    expected = [('{path} is not a file, got ….', False), ('Slow.', True), ('{path} are one | two.', True)]
    assert said == expected
