"""Where weights are found: files, folders of runs, converted folders, the Hub."""

import pytest
import torch
from fake_hub import FakeHub, run_python
from runs import TINY

from gkgnet_timm.commands.convert import main as convert
from gkgnet_timm.commands.predict import main as predict
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import open_split
from gkgnet_timm.weights.source import find_checkpoint, find_weights

pytestmark = pytest.mark.usefixtures('small_demo', 'no_curves')
ON_CPU = ['-j', '0', '--device', 'cpu']


@pytest.fixture(scope='module')
def run(tmp_path_factory, small_demo):
    folder = tmp_path_factory.mktemp('out')
    train([*TINY, '--lr', '1e-2', '--warmup-epochs', '0', '--output', str(folder), '--experiment', 'run'])
    return folder / 'run'


@pytest.fixture
def demo_image():
    return open_split('demo', split='val', verbose=False).filename(0, absolute=True)


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_files_and_folders(tmp_path):
    run = touch(tmp_path / 'run', 'last.pth.tar')
    assert (
        find_weights(run)
        == str(run / 'last.pth.tar')
        == find_weights(run / 'last.pth.tar')
        == find_checkpoint(str(run))
    )
    touch(run, 'model_best.pth.tar')
    assert find_weights(str(run)) == str(run / 'model_best.pth.tar')
    assert find_checkpoint(str(run)) == str(run / 'last.pth.tar')
    converted = touch(tmp_path / 'converted', 'config.json', 'model.safetensors', 'last.pth.tar')
    assert find_weights(converted) == find_weights(f'local-dir:{converted}') == str(converted / 'model.safetensors')


@pytest.mark.parametrize(
    'source, message',
    [
        ('nope.pth', "Checkpoint 'nope.pth' does not exist.$"),
        ('org/name', "Checkpoint 'org/name' does not exist. For weights on the Hub give hf-hub:org/name"),
        ('local-dir:nope', "Folder 'nope' does not exist"),
        ('empty', "Folder 'empty' has no weights: neither model_best.pth.tar .* nor config.json"),
        ('half', "Folder 'half' has no weights"),
    ],
)
def test_nothing_there(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / 'empty')
    touch(tmp_path / 'half', 'config.json')
    with pytest.raises(FileNotFoundError, match=message):
        find_weights(source)


def test_every_command_takes_folders(run, tmp_path, demo_image, capsys):
    converted = str(tmp_path / 'converted')
    convert([str(run), '--output', converted])
    assert f"Weights of '{run}': {run / 'model_best.pth.tar'}\n" in capsys.readouterr().err
    rows = []
    for source in (run, run / 'model_best.pth.tar', converted, f'local-dir:{converted}'):
        predict([demo_image, '--checkpoint', str(source), *ON_CPU])
        rows.append(capsys.readouterr().out)
    assert len(set(rows)) == 1 and '"labels"' in rows[0]
    expected = validate(['--checkpoint', str(run / 'model_best.pth.tar'), *ON_CPU])
    result = validate(['--checkpoint', converted, '--dataset', 'demo', *ON_CPU])
    assert result['mAP'] == expected['mAP'] and result['model'] == expected['model']
    weights = torch.load(run / 'model_best.pth.tar', weights_only=True)['state_dict']
    flags = [*TINY, '--lr', '0', '--warmup-epochs', '0', '--epochs', '1', '--output', str(tmp_path)]
    for name, source in (('a', run), ('b', converted)):
        train([*flags, '--experiment', name, '--pretrained-path', str(source)])
        started = torch.load(tmp_path / name / 'last.pth.tar', weights_only=True)['state_dict']
        assert torch.equal(started['stem.conv1.conv.weight'], weights['stem.conv1.conv.weight'])
    train(['--resume', str(tmp_path / 'a'), '--epochs', '2', '-j', '0'])
    assert torch.load(tmp_path / 'a' / 'last.pth.tar', weights_only=True)['epoch'] == 1


def test_classes_of_a_converted_folder_are_matched_by_name(run, tmp_path, capsys):
    """The table has them in another order."""
    converted = str(tmp_path / 'converted')
    convert([str(run), '--output', converted])
    dataset = open_split('demo', split='val')
    names = list(reversed(dataset.class_names))
    rows = [','.join(['file', *names])]
    for name, target in zip(dataset.reader.files, dataset.reader.targets):
        rows.append(','.join([name, *map(str, target[::-1])]))
    (tmp_path / 'val.csv').write_text('\n'.join(rows))
    flags = ['--data-dir', str(dataset.reader.root), '--split', str(tmp_path / 'val.csv'), *ON_CPU]
    expected = validate(['--checkpoint', converted, '--dataset', 'demo', *ON_CPU])
    assert validate(['--checkpoint', converted, *flags])['mAP'] == expected['mAP']


def test_weights_on_the_hub(run, tmp_path, demo_image):
    folder = tmp_path / 'hub' / 'someone' / 'model'
    convert([str(run), '--output', str(folder)])
    code = (
        'from gkgnet_timm import load_model; from gkgnet_timm.commands.predict import main; '
        "print(load_model('hf-hub:someone/model').pretrained_cfg['label_names']); "
        f"main([{demo_image!r}, '--checkpoint', 'hf-hub:someone/model', *{ON_CPU}])"
    )
    with FakeHub(tmp_path / 'hub') as hub:
        done = run_python(code, home=tmp_path / 'home', endpoint=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert '"labels"' in done.stdout and "Weights of 'hf-hub:someone/model'" in done.stderr
