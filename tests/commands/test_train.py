"""Training as a user calls it: flags, data sets, and errors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import TINY, check_one_line, read_summary

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import demo
from gkgnet_timm.evaluation.results import in_decimals
from gkgnet_timm.weights.load import create_model

pytestmark = pytest.mark.usefixtures('small_demo', 'no_curves')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, small_demo):
    """Path of a checkpoint after one epoch."""
    root = tmp_path_factory.mktemp('train')
    train([*TINY, '--epochs', '1', '--output', str(root), '--experiment', 'run'])
    return str(root / 'run' / 'last.pth.tar')


def test_train_then_validate_reproduces_the_metric(tmp_path, capsys):
    last = train([*TINY, '--output', str(tmp_path), '--experiment', 'run', '--lr', '1e-4'])
    printed = capsys.readouterr().out
    run = tmp_path / 'run'
    assert 'chance' in printed and 'left' in printed
    assert f'validate --checkpoint {run / "model_best.pth.tar"}' in printed
    assert '[   3/3]' in printed  # 19 images in batches of 8: the last, smaller one is kept
    rows = read_summary(run)
    assert [row['epoch'] for row in rows] == ['1', '2']
    assert float(rows[-1]['eval_mAP']) == last['mAP']
    checkpoint = torch.load(run / 'last.pth.tar', weights_only=True)
    assert checkpoint['arch'] == 'gkgnet_ti_224' and checkpoint['args']['class_names'] == list(demo.SHAPES)

    result = validate(['--checkpoint', str(run / 'last.pth.tar'), '-j', '0'])
    assert last.keys() - result.keys() == {'loss'}  # of training, which evaluation does not know
    for name in last.keys() & result.keys():
        assert result[name] == last[name], name
    results_file = tmp_path / 'r.json'
    best = validate(['--checkpoint', str(run / 'model_best.pth.tar'), '-j', '0', '--results-file', str(results_file)])
    assert best['mAP'] == max(float(row['eval_mAP']) for row in rows)
    assert json.loads(results_file.read_text()) == in_decimals(best)


def test_args_yaml_repeats_the_run(tmp_path):
    train([*TINY, '--output', str(tmp_path), '--experiment', 'a', '--lr', '3e-4', '--opt-betas', '0.8', '0.99'])
    flags = ['-c', str(tmp_path / 'a' / 'args.yaml'), '--experiment', 'b']
    train(flags)
    first, second = (yaml.safe_load((tmp_path / name / 'args.yaml').read_text()) for name in 'ab')
    assert first['lr'] == 3e-4 and first['opt_betas'] == [0.8, 0.99]
    assert first | {'experiment': 'b'} == second
    assert read_summary(tmp_path / 'a') == read_summary(tmp_path / 'b')


@pytest.mark.parametrize('dataset, split', [('coco', 'train'), ('voc', '2007/trainval')])
def test_train_on_other_data_sets(dataset, split, tmp_path, request):
    folder = request.getfixturevalue(f'{dataset}_folder')
    flags = ['--dataset', dataset, '--data-dir', str(folder), '--train-split', split, '-b', '3', '--amp']
    if dataset == 'coco':
        flags += ['--val-split', 'val', '-b', '2']
    metrics = train([*TINY, *flags, '--output', str(tmp_path / 'out'), '--experiment', 'run'])
    result = validate(['--checkpoint', str(tmp_path / 'out' / 'run' / 'last.pth.tar'), '-j', '0'])
    assert result['mAP'] == metrics['mAP'] and result['split'] == ('val' if dataset == 'coco' else '2007/test')


def test_classes_of_the_training_split_hold(coco_folder, tmp_path, capsys):
    """A root is dropped in training; the evaluation split has it, too, other ids, another order and fewer classes."""
    for split, ids in (('train', dict(animals=0, bottle=44, person=1, dog=18)), ('val', dict(dog=1, person=2, root=0))):
        path = coco_folder / 'annotations' / f'instances_{split}.json'
        content = json.loads(path.read_text())
        names = {44: 'bottle', 1: 'person', 18: 'dog'}
        content['categories'] = [dict(id=i, name=name) for name, i in ids.items()]
        kept = [item for item in content['annotations'] if names[item['category_id']] in ids]
        content['annotations'] = [dict(item, category_id=ids[names[item['category_id']]]) for item in kept]
        path.write_text(json.dumps(content))
    flags = [
        '--dataset',
        'coco',
        '--data-dir',
        str(coco_folder),
        '--train-split',
        'train',
        '--val-split',
        'val',
        '-b',
        '2',
    ]
    with pytest.raises(ValueError, match="does not know: 'root'. Only known there: 'animals', 'bottle'"):
        train([*TINY, *flags, '--output', str(tmp_path / 'out')])
    flags += ['--drop-empty-classes', '--output', str(tmp_path / 'out'), '--experiment', 'run']
    capsys.readouterr()
    metrics = train([*TINY, *flags])
    assert "Left out, as no image has it: 'animals'." in capsys.readouterr().out
    scores = tmp_path / 'scores.npz'
    checkpoint = str(tmp_path / 'out' / 'run' / 'last.pth.tar')
    result = validate(['--checkpoint', checkpoint, '-j', '0', '--scores-out', str(scores)])
    stored = np.load(scores)
    assert result['mAP'] == metrics['mAP'] and stored['classes'].tolist() == ['person', 'dog', 'bottle']
    assert stored['targets'].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    'flags',
    [
        '--model-ema --model-ema-decay 0.5 --grad-accum-steps 2 --channels-last',
        '--cropmix 0.5 --reprob 0.5 --aa trivial --oversample-thr 0.5 --grad-checkpointing',
        '--loss asl --mixup 0.4 --cutmix 1 --mixup-mode elem --mixup-off-epoch 1',
        '--amp --amp-dtype float16 --clip-mode value --layer-decay 0.7 --aug-repeats 2',
        '--loss db --sched step --decay-epochs 1 --no-sched-on-updates --drop 0.1 --no-aug',
        '--loss bce --loss-pos-weight neg_pos --clip-grad 0',
        '--model test_resnet --model-kwargs --torchcompile eager',
    ],
)
def test_flags_work_together(flags, tmp_path):
    metrics = train([*TINY, *flags.split(), '--output', str(tmp_path), '--experiment', 'run'])
    result = validate(['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0'])
    assert result['mAP'] == metrics['mAP'] and result['bce'] == metrics['bce']


def test_train_a_timm_model(tmp_path):
    flags = ['--model', 'resnet10t', '--model-kwargs', '--epochs', '1', '--output', str(tmp_path)]
    with pytest.raises(ValueError, match='--batch-size'):  # the last batch would be of one image, its maps of one pixel
        train([*TINY, *flags, '-b', '6'])
    metrics = train([*TINY, *flags])
    assert 0 <= metrics['mAP'] <= 100


def test_pretrained_path(checkpoint):
    """A checkpoint of other classes gives all but the classifier; zero starts the position embedding anew."""
    trained = torch.load(checkpoint, weights_only=False)['state_dict']
    options = dict(num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)
    model = create_model('gkgnet_ti_224', pretrained_path=checkpoint, img_size=32, **options)
    assert model.num_classes == 5 and torch.equal(model.stem.conv1.conv.weight, trained['stem.conv1.conv.weight'])
    assert torch.equal(model.stem.pos_embed, trained['stem.pos_embed']) and model.stem.pos_embed.any()
    for pos_embed_init in ('resample', 'zero'):
        options.update(img_size=64, pos_embed_init=pos_embed_init)
        model = create_model('gkgnet_ti_224', pretrained_path=checkpoint, **options)
        assert model.stem.pos_embed.any() == (pos_embed_init == 'resample')


def test_errors_are_one_line(checkpoint, tmp_path, capsys, coco_folder):
    coco = ['--dataset', 'coco', '--data-dir', str(coco_folder)]
    splits = ['--train-split', 'train', '--val-split', 'val']
    (tmp_path / 'config.yaml').write_text('epoch: 3\n')
    (tmp_path / 'type.yaml').write_text('epochs: many\n')
    (tmp_path / 'broken.yaml').write_text('a: [\n')
    (tmp_path / 'other.pth.tar').write_bytes(b'no checkpoint')
    (coco_folder / 'val' / '007.png').unlink()
    cases = [
        (['train', *TINY, '--model', 'gkgnet_577'], "'gkgnet_577'.*gkgnet_576"),
        (['train', *TINY, '--model', 'gkgnet_576.nope', '--pretrained'], "'gkgnet_576.nope'.*nope"),
        (['train', *TINY, '--pretrained-path', 'nope.pth'], 'nope.pth'),
        (['train', '--dataset', 'coco'], '--data-dir'),
        (['train', '--dataset', 'imagenet', '--data-dir', '.'], "'imagenet'|--train-split"),
        (['train', '--dataset', 'coco', '--data-dir', str(tmp_path / 'nowhere')], 'instances_train2014.json'),
        (['train', *TINY, *coco, '--train-split', 'train', '--val-split', 'train'], 'same 4 images.*--val-split'),
        (['train', *TINY, *coco, *splits], '1 of 4 images.*007.png'),
        (['train', *TINY, '--img-size', '33'], '33.*multiple of 32'),
        (['train', *TINY, '--epochs', '0'], '--epochs'),
        (['train', *TINY, '--eval-metric', 'map'], "'map'.*mAP"),
        (['train', *TINY, '--cropmix', '2'], 'cropmix.*2'),
        (['train', *TINY, '--opt-kwargs', 'foo=1'], '--opt.*foo'),
        (['train', *TINY, '--model-kwargs', 'foo=1'], "'gkgnet_ti_224'.*foo"),
        (['train', *TINY, '--aa', 'foo'], '--aa.*'),
        (['train', *TINY, '--train-interpolation', 'foo'], '--train-interpolation.*foo'),
        (['train', *TINY, '--torchcompile', 'foo'], "--torchcompile 'foo'"),
        (['train', *TINY, '--device', 'foo'], '--device.*foo'),
        (['train', *TINY, '--scale', '1', '0.1'], '--scale'),
        (['train', *TINY, '--mixup', '-1'], '--mixup'),
        (['train', *TINY, '--seed', '-1'], '--seed'),
        (['train', *TINY, '--loss', 'bce', '--loss-pos-weight', '1,2'], '--loss-pos-weight.*8 classes'),
        (['train', *TINY, '--pretrained-path', str(tmp_path / 'other.pth.tar')], 'other.pth.tar'),
        (['train', '--resume', str(tmp_path)], "Checkpoint '.*last.pth.tar' does not exist"),
        (['train', *TINY, '--loss', 'twoway', '--mixup', '1'], 'twoway'),
        (['train', *TINY, '--smoothing', '0.1'], 'gkgnet.*smoothing'),
        (['train', '-c', 'nope'], "'nope'.*coco2014_576"),
        (['train', '-c', str(tmp_path / 'config.yaml')], "'epoch', 'epochs'"),
        (['train', '-c', str(tmp_path / 'type.yaml')], "--epochs: invalid int value: 'many'"),
        (['train', '-c', str(tmp_path / 'broken.yaml')], 'not YAML'),
        (['train', '--resume', 'auto'], '--experiment'),
        (['train', '--resume', str(tmp_path / 'nope.pth.tar')], 'nope.pth.tar'),
        (['train', '--resume', str(tmp_path / 'other.pth.tar')], 'other.pth.tar.*not a checkpoint'),
        (['train', *coco, *splits, '--resume', checkpoint, '--on-bad-image', 'skip'], '8 classes.*has 3'),
        (['train', '--resume', checkpoint, '--model', 'resnet10t', '--model-kwargs'], 'does not fit'),
        (['train', '--resume', checkpoint, '--experiment', 'other'], 'continues in the folder'),
    ]
    for argv, message in cases:
        check_one_line(argv, message, capsys)


@pytest.mark.parametrize('workers', ['0', '1'])
def test_broken_images(workers, tmp_path, coco_folder, capsys):
    (coco_folder / 'train' / '005.png').write_bytes(b'no image')
    (coco_folder / 'val' / '003.png').unlink()
    flags = ['--dataset', 'coco', '--data-dir', str(coco_folder), '--train-split', 'train', '--val-split', 'val']
    flags += ['-b', '2', '-j', workers, '--output', str(tmp_path / 'out'), '--experiment', 'run']
    (coco_folder / 'val' / '003.png').write_bytes(b'no image')
    with pytest.raises(SystemExit):
        command(['train', *TINY, *flags])
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and error.startswith("error: Cannot read image '") and '005.png' in error
    assert 'Traceback' not in error
    (coco_folder / 'val' / '003.png').unlink()
    train([*TINY, *flags, '--on-bad-image', 'skip'])
    assert '2 images could not be read' in capsys.readouterr().out
    listed = (tmp_path / 'out' / 'run' / 'bad_images.txt').read_text().split()
    assert set(listed) == {str(coco_folder / 'train' / '005.png'), str(coco_folder / 'val' / '003.png')}


def test_csv_of_fewer_classes_in_evaluation(tmp_path, coco_folder):
    (coco_folder / 'a.csv').write_text('003.png,cat;dog\n005.png,\n007.png,eel\n009.png,cat\n')
    (coco_folder / 'b.csv').write_text('003.png,dog\n005.png,dog\n')
    data = ['--dataset', 'csv', '--data-dir', str(coco_folder), '--train-split', 'a.csv', '--val-split', 'b.csv']
    images = ['--train-images', str(coco_folder / 'train'), '--val-images', str(coco_folder / 'val'), '-b', '2']
    metrics = train([*TINY, *data, *images, '--output', str(tmp_path / 'out'), '--experiment', 'run'])
    result = validate(['--checkpoint', str(tmp_path / 'out' / 'run' / 'last.pth.tar'), '-j', '0'])
    assert result['mAP'] == metrics['mAP'] == pytest.approx(100 / 3) and result['mAP_present'] == 100


def test_command_line_over_config_over_checkpoint(checkpoint, tmp_path):
    folder = Path(checkpoint).parent
    config, resume = parse_flags(['--resume', checkpoint])
    assert resume == checkpoint and (config.lr, config.epochs, config.seed) == (1e-3, 1, 42)
    assert config.device is None  # the one device of the run may be of another machine
    assert (Path(config.output), config.experiment, config.train_split) == (folder.parent, folder.name, 'train')
    (tmp_path / 'a.yaml').write_text('lr: 0.5\nepochs: 7\n')
    config, _ = parse_flags(['--resume', checkpoint, '-c', str(tmp_path / 'a.yaml'), '--epochs', '9'])
    assert (config.lr, config.epochs, config.img_size) == (0.5, 9, 32)
    config, _ = parse_flags(['--resume', checkpoint, '--dataset', 'csv', '--data-dir', 'x'])
    assert (config.train_split, config.val_split, config.img_size) == (None, None, 32)


def test_resume_with_flags_given_anew(tmp_path, capsys):
    flags = ['--output', str(tmp_path), '--experiment', 'run']
    train([*TINY, *flags, '--sched', 'constant', '--warmup-epochs', '0'])
    resume = ['--resume', str(tmp_path / 'run' / 'last.pth.tar'), '--device', 'cpu', '--epochs', '3']
    train([*resume, '--lr', '5e-3', '--weight-decay', '0.3'])
    groups = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)['optimizer']['param_groups']
    assert {group['lr'] for group in groups} == {5e-3} and {group['weight_decay'] for group in groups} == {0, 0.3}
    assert [float(row['lr']) for row in read_summary(tmp_path / 'run')] == [1e-3, 1e-3, 5e-3]
    with pytest.raises(ValueError, match='--eval-metric'):
        train([*resume, '--eval-metric', 'CF1'])
    # auto takes the experiment from a config
    capsys.readouterr()
    train(['-c', str(tmp_path / 'run' / 'args.yaml'), '--resume', 'auto', '--epochs', '4'])
    assert 'Resumed after epoch 3' in capsys.readouterr().out


def test_similar_models(capsys):
    for name, similar in (('gkgnet448', 'gkgnet_448'), ('resnet_50', 'resnet50'), ('qqqqqqqqqq', 'timm.list_models()')):
        with pytest.raises(ValueError, match=f"Unknown model '{name}', .*{re.escape(similar)}"):
            train([*TINY, '--model', name])
