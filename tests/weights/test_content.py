"""Files of weights of any tool: what is unwrapped, which of two sets is taken, and what is refused."""

import argparse
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from filler import fill_model

import timm

from gkgnet_timm.runtime import locked
from gkgnet_timm.weights.content import ContentError, read_content, read_weights, reading_once
from gkgnet_timm.weights.convert import convert
from gkgnet_timm.weights.file import read_training
from gkgnet_timm.weights.load import create_model, load_model

KWARGS = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3, img_size=32, num_classes=3)


def create(seed=0, name='gkgnet_ti_224', **kwargs):
    return fill_model(timm.create_model(name, **(kwargs or KWARGS)), seed).eval()


def assert_weights(model, expected):
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize('is_old', [False, True], ids=['zip', 'before 1.6'])
@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'model_state_dict', 'model'])
@pytest.mark.parametrize(
    'prefix', ['', 'model.', 'net.', 'module._orig_mod.', '_orig_mod.module.model.', 'model.module.net.']
)
def test_file_of_another_tool(prefix, wrapper, is_old, tmp_path, caplog):
    expected = create(name='test_resnet', num_classes=3)
    state = {f'{prefix}{name}': value for name, value in expected.state_dict().items()}
    content = {wrapper: state, 'epoch': 3, 'args': argparse.Namespace(lr=1)} if wrapper else state
    torch.save(content, tmp_path / 'f.pth', _use_new_zipfile_serialization=not is_old)
    assert_weights(load_model(tmp_path / 'f.pth', name='test_resnet', num_classes=3), expected)
    assert (repr(prefix) in caplog.text) == bool(prefix)
    assert ("'model_state_dict'" in caplog.text) == (wrapper == 'model_state_dict')


def test_old_file_of_ours_converts_and_starts_a_training(tmp_path):
    expected = create()
    state = {f'module.{name}': value for name, value in expected.state_dict().items()}
    torch.save(dict(model_state_dict=state), tmp_path / 'f.pth', _use_new_zipfile_serialization=False)
    sizes = {name: KWARGS[name] for name in ('depths', 'dims', 'k', 'label_k', 'img_size')}
    done = convert(tmp_path / 'f.pth', tmp_path / 'out', model='gkgnet_ti_224', model_kwargs=sizes)
    assert_weights(load_model(name=f'local-dir:{done.folder}', pretrained=True), expected)
    assert_weights(create_model('gkgnet_ti_224', pretrained_path=tmp_path / 'f.pth', **KWARGS), expected)


def test_average_of_torch_and_tensors_of_something_else(tmp_path):
    expected = create()
    average = torch.optim.swa_utils.AveragedModel(expected)
    torch.save(average.state_dict(), tmp_path / 'f.pth')
    assert read_weights(tmp_path / 'f.pth').tensors.keys() == expected.state_dict().keys()
    state = {f'model.{name}': value for name, value in expected.state_dict().items()}
    torch.save(dict(state_dict={**state, 'loss.pos_weight': torch.ones(3)}), tmp_path / 'f.pth')
    with pytest.raises(ContentError, match="below 'model.', and 1 of something else, such as 'loss.pos_weight'"):
        read_weights(tmp_path / 'f.pth')


@pytest.mark.parametrize('raw, average', [('state_dict', 'state_dict_ema'), ('model', 'model_ema')])
def test_one_rule_for_a_file_with_weights_and_their_average(raw, average, tmp_path, caplog):
    """The average if the file says that it is better, else the weights, unless told; said if not told."""
    models = {False: create(), True: create(seed=1)}
    path = tmp_path / 'f.pth'
    sizes = {name: value for name, value in KWARGS.items() if name not in ('num_classes', 'img_size')}
    for best in (None, 'raw', 'average'):
        torch.save({raw: models[False].state_dict(), average: models[True].state_dict(), 'best_weights': best}, path)
        for use_ema in (None, False, True):
            caplog.clear()
            takes_average = best == 'average' if use_ema is None else use_ema
            weights = read_weights(path, use_ema)
            name = 'head_label.weight'
            assert weights.is_average == takes_average
            assert torch.equal(weights.tensors[name], models[takes_average].state_dict()[name])
            said = [record.message for record in caplog.records]
            assert len(said) == (use_ema is None)
            assert all(('took the average' in line) == (best == 'average') for line in said)
    caplog.clear()
    assert_weights(load_model(path, name='gkgnet_ti_224', num_classes=3, img_size=32, **sizes), models[True])
    assert_weights(create_model('gkgnet_ti_224', pretrained_path=path, **KWARGS), models[True])
    assert caplog.text.count('took the average') == 2
    torch.save({raw: models[False].state_dict()}, path)
    with pytest.raises(ValueError, match='--use-ema.*holds no average'):
        read_weights(path, use_ema=True)


def test_average_alone_is_not_taken_for_the_weights(tmp_path):
    expected = create()
    torch.save(dict(state_dict_ema=expected.state_dict()), tmp_path / 'f.pth')
    sizes = {name: KWARGS[name] for name in ('depths', 'dims', 'k', 'label_k')}
    options = dict(model='gkgnet_ti_224', model_kwargs=dict(sizes, img_size=32))
    flags = dict(name='gkgnet_ti_224', num_classes=3, img_size=32, **sizes)
    for use_ema in (None, True):
        assert_weights(load_model(tmp_path / 'f.pth', use_ema=use_ema, **flags), expected)
        done = convert(tmp_path / 'f.pth', tmp_path / 'out', use_ema=use_ema, **options)
        assert '"ema": true' in (done.folder / 'config.json').read_text()
    for path in ('f.pth', 'old.pth'):
        content = dict(state_dict_ema=expected.state_dict())
        torch.save(content, tmp_path / path, _use_new_zipfile_serialization=path == 'f.pth')
        message = f'--no-use-ema: .*{path}. holds the average of the weights alone'
        with pytest.raises(ContentError, match=message):
            load_model(tmp_path / path, use_ema=False, **flags)
        with pytest.raises(ContentError, match=message):
            convert(tmp_path / path, tmp_path / 'out', use_ema=False, **options)
    create_model('gkgnet_ti_224', pretrained_path=tmp_path / 'f.pth', **KWARGS)  # a training takes what there is


def test_folder_says_which_weights_it_has(tmp_path):
    state = [create(seed=seed).state_dict() for seed in (0, 1)]
    torch.save(dict(state_dict=state[0], state_dict_ema=state[1], best_weights='average'), tmp_path / 'f.pth')
    sizes = {name: KWARGS[name] for name in ('depths', 'dims', 'k', 'label_k', 'img_size')}
    for use_ema, seed in ((None, 1), (False, 0)):
        done = convert(tmp_path / 'f.pth', tmp_path / 'out', model='gkgnet_ti_224', model_kwargs=sizes, use_ema=use_ema)
        assert_weights(load_model(name=f'local-dir:{done.folder}', pretrained=True), create(seed=seed))
        assert f'"ema": {str(bool(seed)).lower()}' in (done.folder / 'config.json').read_text()
    with locked(tmp_path / 'out', 'convert'):
        with pytest.raises(ValueError, match='Another convert is at work in .*out'):
            convert(tmp_path / 'f.pth', tmp_path / 'out', model='gkgnet_ti_224', model_kwargs=sizes)


@pytest.mark.parametrize(
    'content, message',
    [
        ([1, 2], 'holds list'),
        ({'state_dict': {3: torch.ones(1)}}, 'the name of a tensor is int'),
        ({'state_dict': {'a': 'b'}}, "'a' is str, expected a tensor"),
        ({'a': torch.zeros(1).expand(10**9)}, 'larger than the file'),
        ({'a': torch.zeros(3).to_sparse()}, 'sparse'),
        ({'a': torch.zeros(3, device='meta')}, 'has no numbers'),
    ],
)
def test_content_that_is_no_model(content, message, tmp_path):
    torch.save(content, tmp_path / 'f.pth')
    with pytest.raises(ContentError, match=f'f.pth.*{message}'):
        read_weights(tmp_path / 'f.pth')


def test_file_that_grows_when_unpacked(tmp_path):
    torch.save({'a': torch.zeros(10**6)}, tmp_path / 'f.pth')
    with zipfile.ZipFile(tmp_path / 'f.pth') as source, zipfile.ZipFile(tmp_path / 'g.pth', 'w', 8) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(ContentError, match='g.pth.* is compressed'):
        read_content(tmp_path / 'g.pth')


@pytest.fixture
def loads(monkeypatch):
    """Names of the files that torch loads."""
    names, load = [], torch.load

    def counted(file, *args, **kwargs):
        names.append(Path(file).name)
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', counted)
    return names


def save_training(path, model, is_old=False, **more):
    kwargs = {name: KWARGS[name] for name in ('depths', 'dims', 'k', 'label_k')}
    args = dict(model='gkgnet_ti_224', model_kwargs=kwargs, img_size=32, class_names=['a', 'b', 'c'])
    content = dict(args=args, state_dict=model.state_dict(), **more)
    torch.save(content, path, _use_new_zipfile_serialization=not is_old)


@pytest.mark.parametrize('is_old', [False, True], ids=['zip', 'before 1.6'])
def test_a_file_is_read_once(is_old, tmp_path, loads):
    path, expected = tmp_path / 'f.pth', create()
    save_training(path, expected, is_old)
    assert_weights(load_model(path), expected)
    assert_weights(create_model('gkgnet_ti_224', pretrained_path=path, **dict(KWARGS, num_classes=None)), expected)
    assert loads == ['f.pth'] * 2  # once by each
    with reading_once():
        trained = read_training(path)
        assert_weights(load_model(path), expected)
    assert loads == ['f.pth'] * 3
    assert read_training(path) == trained and loads == ['f.pth'] * 4


def test_a_file_that_changes_is_read_again(tmp_path, loads):
    path = tmp_path / 'f.pth'
    with reading_once():
        for seed in (0, 1):
            save_training(tmp_path / 'draft', create(seed))
            os.replace(tmp_path / 'draft', path)
            assert_weights(load_model(path), create(seed))
    assert len(loads) == 2


def test_what_is_read_once_is_not_changed_by_others(tmp_path):
    path = tmp_path / 'f.pth'
    save_training(path, create(), held_out=['a.png'])
    with reading_once():
        trained, weights = read_training(path), read_weights(path)
        trained.config['model_kwargs']['dims'] = trained.config['img_size'] = 0
        trained.class_names.append('d')
        trained.held_out.append('b.png')
        for tensor in weights.tensors.values():
            tensor.fill_(0)
        again = read_training(path)
        assert again.config['model_kwargs']['dims'] == KWARGS['dims'] and again.config['img_size'] == 32
        assert again.class_names == ['a', 'b', 'c'] and again.held_out == ['a.png']
        assert_weights(load_model(path), create())


def test_weights_stay_when_their_file_is_written_to(tmp_path):
    path, expected = tmp_path / 'f.pth', create().state_dict()
    torch.save(expected, path)
    weights = read_weights(path).tensors
    path.write_bytes(b'\0' * path.stat().st_size)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_an_optimizer_is_not_read(tmp_path):
    path = tmp_path / 'f.pth'
    save_training(path, create(), optimizer=dict(state={0: dict(exp_avg=torch.ones(10_000_000))}))

    def bytes_read():
        return int(Path('/proc/self/io').read_text().split()[1])

    before = bytes_read()
    load_model(path)
    assert bytes_read() - before < path.stat().st_size / 10
