"""What a file of weights says of its training, and models loaded from weights of every origin."""

import re

import pytest
import torch
from filler import NARROW, fill_model, published_gkgnet
from tiny import images
from torch.testing import assert_close

import timm
from timm.data import IMAGENET_INCEPTION_MEAN, resolve_model_data_config
from timm.models import save_for_hf

from gkgnet_timm.class_names import COCO_CLASSES
from gkgnet_timm.weights.file import TrainedWith, read_training
from gkgnet_timm.weights.load import create_model, create_model_by_labels, load_model, stored_names

NAMES = ['cat', 'dog', 'eel']
KWARGS = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)


def create(name='gkgnet_ti_224', seed=0, **kwargs):
    return fill_model(timm.create_model(name, **{**KWARGS, 'num_classes': 3, 'img_size': 32, **kwargs}), seed).eval()


@torch.no_grad()
def logits(model, size=32, channels=3):
    return model(images(2, size, channels=channels).float())


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as training writes it, and its content."""
    args = dict(model='gkgnet_ti_224', model_kwargs=KWARGS, img_size=32, class_names=NAMES, lr=1e-4, opt_betas=None)
    content = dict(arch='gkgnet_ti_224', epoch=3, args=args, optimizer=dict(state={}, param_groups=[]), metric=1.5)
    content.update(state_dict=create().state_dict(), state_dict_ema=create(seed=1).state_dict())
    torch.save(content, tmp_path / 'last.pth.tar')
    return tmp_path / 'last.pth.tar', content


def test_training_that_a_checkpoint_tells_of(checkpoint, tmp_path):
    path, content = checkpoint
    config = {key: value for key, value in content['args'].items() if key != 'class_names'}
    assert read_training(path) == TrainedWith(config, NAMES, True) == read_training(str(path))
    del content['state_dict_ema']
    torch.save(content, path)
    assert not read_training(path).has_ema
    for other in (content['state_dict'], dict(content, args=dict(model='resnet18')), dict(content, args=None), [1]):
        torch.save(other, path)
        assert read_training(path) is None
    assert read_training(tmp_path / 'last.pth.tar') is None
    (tmp_path / 'a.safetensors').write_bytes(b'')
    assert read_training(tmp_path / 'a.safetensors') is None


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('class_names', 'abc', 'its class_names is of type str'),
        ('class_names', [], 'no class'),
        ('class_names', ['a', 'a'], "class 'a' twice"),
        ('model', None, 'its model is of type NoneType'),
        ('model_kwargs', [('k', 3)], 'its model_kwargs is of type list'),
        ('img_size', '32', 'its img_size is of type str'),
    ],
)
def test_training_of_other_types(name, value, message, checkpoint):
    path, content = checkpoint
    content['args'][name] = value
    torch.save(content, path)
    with pytest.raises(ValueError, match=f'{path}.*{message}') as error:
        read_training(path)
    assert len(str(error.value).splitlines()) == 1
    content['args'].pop(name)
    torch.save(content, path)
    if name == 'class_names':
        assert read_training(path) is None
    else:
        with pytest.raises(ValueError, match=f'its {name} is of type NoneType.*take another one of its folder'):
            read_training(path)


def test_checkpoint_that_cannot_be_read(checkpoint, tmp_path):
    path, content = checkpoint
    with pytest.raises(FileNotFoundError, match=f'is a folder, give {path}'):
        read_training(tmp_path)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_training(tmp_path / 'nope.pth')
    del content['state_dict']
    torch.save(content, path)
    with pytest.raises(ValueError, match='its state_dict is of type NoneType'):
        read_training(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match='damaged or not a checkpoint.*If it is of a training, take another one'):
        read_training(path)


@pytest.mark.parametrize(
    'best, use_ema, average',
    [
        (None, None, False),
        ('raw', None, False),
        ('average', None, True),
        ('average', False, False),
        ('raw', True, True),
    ],
)
def test_better_weights_are_loaded_unless_asked_for_others(best, use_ema, average, checkpoint):
    path, content = checkpoint
    if best:
        torch.save(dict(content, best_weights=best), path)
    assert torch.equal(logits(load_model(path, use_ema=use_ema)), logits(create(seed=int(average))))
    trained = read_training(path)
    assert trained.takes_average(use_ema) == average
    reason = 'which had the better metric in training' if best else 'as the file does not say which are better'
    reason = reason if use_ema is None else 'as asked for'
    other = '--no-use-ema takes the raw ones' if average else '--use-ema takes their average'
    expected = f'Weights: {"average" if average else "raw"}, {reason}; {other}.'
    assert trained.describe_weights(use_ema) == expected


@pytest.mark.parametrize(
    'entry', [dict(best_weights='both'), dict(held_out=[3]), dict(is_training_split='no'), dict(wandb_id=1)]
)
def test_damaged_entries_are_named(entry, checkpoint):
    path, content = checkpoint
    torch.save(dict(content, **entry), path)
    with pytest.raises(ValueError, match=f'last.pth.tar. is damaged: its {next(iter(entry))} is'):
        read_training(path)


@pytest.mark.parametrize('use_ema', [False, True])
def test_own_checkpoint(checkpoint, use_ema):
    model = load_model(checkpoint[0], use_ema=use_ema)
    assert not any(module.training for module in model.modules())
    assert torch.equal(logits(model), logits(create(seed=int(use_ema))))
    cfg = model.pretrained_cfg
    assert cfg is model.default_cfg and cfg['architecture'] == 'gkgnet_ti_224'
    assert cfg['label_names'] == NAMES and cfg['num_classes'] == 3
    config = resolve_model_data_config(model)
    assert config == timm.data.resolve_input_data_config(create(), args=dict(img_size=32))
    assert config['input_size'] == (3, 32, 32) and config['crop_mode'] == 'squash'
    registered = timm.get_pretrained_cfg('gkgnet_ti_224')
    assert registered.num_classes == 80 and registered.input_size == (3, 224, 224)


def test_other_size_and_options(checkpoint):
    expected = create()
    expected.set_input_size(64)
    model = load_model(str(checkpoint[0]), name='gkgnet_ti_224.in1k', img_size=64, num_classes=3)
    assert torch.equal(logits(model, 64), logits(expected, 64)) and model.stem.img_size == (64, 64)
    assert resolve_model_data_config(model)['input_size'] == (3, 64, 64)
    model = load_model(checkpoint[0], img_size=(32, 96))
    assert model.stem.img_size == (32, 96) and resolve_model_data_config(model)['input_size'] == (3, 32, 96)
    assert model.pretrained_cfg['label_names'] == NAMES and model.pretrained_cfg['pool_size'] is None
    fewer = load_model(checkpoint[0], k=1)  # the other options stay those of the checkpoint
    assert torch.equal(logits(fewer), logits(create(k=1))) and not torch.equal(logits(fewer), logits(create()))


def test_size_in_the_options_of_the_model(checkpoint):
    path, content = checkpoint
    content['args'].update(img_size=None, model_kwargs=dict(KWARGS, img_size=32))
    torch.save(content, path)
    assert resolve_model_data_config(load_model(path))['input_size'] == (3, 32, 32)


def test_published_file(tmp_path):
    torch.save(published_gkgnet(64, 80, 'narrow'), tmp_path / 'f.pth')
    for name, names in (('gkgnet_576', COCO_CLASSES), ('gkgnet_448', None)):
        model = load_model(tmp_path / 'f.pth', name=name, img_size=64, dims=NARROW)
        assert model.pretrained_cfg.get('label_names') == names and not model.training
        assert resolve_model_data_config(model)['input_size'] == (3, 64, 64)
    torch.save(published_gkgnet(64, 20, 'narrow'), tmp_path / 'f.pth')
    model = load_model(tmp_path / 'f.pth', name='gkgnet_576', img_size=64, num_classes=20, dims=NARROW)
    assert model.pretrained_cfg['num_classes'] == 20 and 'label_names' not in model.pretrained_cfg
    with pytest.raises(ValueError, match="f.pth' have 20 classes, not 80: .*--class-map"):
        load_model(tmp_path / 'f.pth', name='gkgnet_576', img_size=64, dims=NARROW)


def test_plain_weights_of_any_timm_model(tmp_path):
    plain = timm.create_model('test_resnet', num_classes=8).eval()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    model = load_model(tmp_path / 'plain.pth', name='test_resnet', num_classes=8, img_size=32)
    assert torch.equal(logits(model), logits(plain)) and model.pretrained_cfg['num_classes'] == 8
    assert resolve_model_data_config(model)['input_size'] == (3, 32, 32)
    with pytest.raises(ValueError, match="'test_resnet' from '.*plain.pth': .*size mismatch"):
        load_model(tmp_path / 'plain.pth', name='test_resnet')


def test_folder_of_weights(tmp_path):
    stored = create('pvig_ti_224', dims=(8, 16, 24, 32), label_k=None, in_chans=1)
    data_config = dict(timm.data.resolve_input_data_config(stored), input_size=(1, 32, 32), crop_pct=0.7)
    save_for_hf(stored, tmp_path, dict(label_names=NAMES), safe_serialization=True, data_config=data_config)
    model = load_model(name=f'local-dir:{tmp_path}', pretrained=True)
    assert torch.equal(logits(model, channels=1), logits(stored, channels=1)) and not model.training
    config = resolve_model_data_config(model)
    assert config['input_size'] == (1, 32, 32) and config['crop_pct'] == 0.7
    assert_close(config['mean'], (sum(IMAGENET_INCEPTION_MEAN) / 3,))
    assert list(model.pretrained_cfg['label_names']) == NAMES
    larger = load_model(name=f'local-dir:{tmp_path}', pretrained=True, img_size=64)
    assert larger.stem.img_size == (64, 64) and resolve_model_data_config(larger)['input_size'] == (1, 64, 64)
    for source in (tmp_path, tmp_path / 'model.safetensors', f'local-dir:{tmp_path}'):
        assert torch.equal(logits(load_model(source), channels=1), logits(stored, channels=1))
    assert (
        stored_names(None, f'local-dir:{tmp_path}') == stored_names(str(tmp_path / 'model.safetensors'), None) == NAMES
    )
    with pytest.raises(ValueError, match='are of pvig_ti_224, not of .pvig_s_224.'):
        load_model(tmp_path, name='pvig_s_224')
    (tmp_path / 'model.safetensors').rename(tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match='beside a config.json of model.safetensors'):
        load_model(tmp_path / 'other.safetensors')


def test_errors(checkpoint, tmp_path):
    path, content = checkpoint
    torch.save(content['state_dict'], tmp_path / 'plain.pth')
    cases = [
        (dict(), 'No weights: .*--checkpoint FILE.*pretrained=True'),
        (dict(name='gkgnet_ti_224'), 'No weights'),
        (dict(checkpoint=tmp_path / 'plain.pth'), 'does not say which model it is of, give --model NAME'),
        (dict(checkpoint=tmp_path / 'nope.pth', name='gkgnet_ti_224'), "nope.pth' does not exist"),
        (dict(checkpoint=path, name='resnet18'), "is of model 'gkgnet_ti_224', not 'resnet18'"),
        (dict(checkpoint=path, num_classes=5), 'has 3 classes, not 5'),
        (dict(checkpoint=path, depths=(2, 1, 1, 1)), "does not fit 'gkgnet_ti_224': .*Missing key"),
        (dict(checkpoint=path, img_size=33), '33'),
        (dict(checkpoint=tmp_path / 'plain.pth', name='gkgnet_ti_224', use_ema=True), 'holds no average'),
        (dict(name='gkgnet_ti_225', pretrained=True), "Unknown model 'gkgnet_ti_225', similar: gkgnet_ti_224"),
        (dict(name='zzz', pretrained=True), r"Unknown model 'zzz', similar: none, see timm.list_models\(\)"),
    ]
    del content['state_dict_ema']
    torch.save(content, tmp_path / 'raw.pth.tar')
    cases.append((dict(checkpoint=tmp_path / 'raw.pth.tar', use_ema=True), '--use-ema: .*holds no average'))
    for kwargs, message in cases:
        with pytest.raises((ValueError, OSError)) as error:
            load_model(**kwargs)
        assert re.search(message, str(error.value)) and '\n' not in str(error.value), (kwargs, error.value)


def test_start_of_a_training(checkpoint):
    path, content = checkpoint
    kwargs = dict(KWARGS, img_size=64)
    model = create_model('gkgnet_ti_224', pretrained_path=path, num_classes=5, drop_rate=0.5, **kwargs)
    weights = content['state_dict']  # the file does not say that its average is better
    assert model.training and model.head_drop.p == 0.5 and model.num_classes == 5 and model.stem.img_size == (64, 64)
    assert torch.equal(model.stem.conv1.conv.weight, weights['stem.conv1.conv.weight'])
    assert model.stem.pos_embed.any()
    zero = create_model('gkgnet_ti_224', pretrained_path=path, num_classes=5, pos_embed_init='zero', **kwargs)
    assert not zero.stem.pos_embed.any()
    model, known = create_model_by_labels('gkgnet_ti_224', ['fox', 'Dog'], pretrained_path=path, img_size=32, **KWARGS)
    assert known == ['Dog'] and torch.equal(model.label_embed.weight[1], weights['label_embed.weight'][1])
    with pytest.raises(ValueError, match='none of the 1 classes .fox, .... is one of the 3'):
        create_model_by_labels('gkgnet_ti_224', ['fox'], pretrained_path=path, img_size=32, **KWARGS)
    with pytest.raises(FileNotFoundError, match="'nope.pth' does not exist"):
        create_model('gkgnet_ti_224', pretrained_path='nope.pth')
    with pytest.raises(ValueError, match="Model 'gkgnet_ti_224': .*nonsense"):
        create_model('gkgnet_ti_224', nonsense=1)
