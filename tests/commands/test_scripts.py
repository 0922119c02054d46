"""Training, validation and data check as a user calls them."""

import csv
import json
import re
import runpy
import subprocess
import sys
import types

import pytest
import torch
import yaml
from conftest import ROOT

import timm

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import demo
from gkgnet_timm.training import progress
from gkgnet_timm.training import run as training
from gkgnet_timm.training.checkpoint import SafeSaver
from gkgnet_timm.training.epoch import TrainingError
from gkgnet_timm.training.run import main as train

TINY = [
    '-c',
    'demo',
    '--img-size',
    '32',
    '-b',
    '8',
    '--epochs',
    '2',
    '-j',
    '0',
    '--log-interval',
    '1',
    '--device',
    'cpu',
]
TINY += ['--model-kwargs', 'depths=(1, 1, 1, 1)', 'dims=(8, 16, 24, 32)', 'k=3', 'label_k=3']


@pytest.fixture(autouse=True)
def small_demo(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(demo, 'SPLITS', {'train': 19, 'val': 11})


def read_summary(run):
    with open(run / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_train_then_validate_reproduces_the_metric(tmp_path, capsys):
    last = train([*TINY, '--output', str(tmp_path), '--experiment', 'run', '--lr', '1e-4'])
    printed = capsys.readouterr().out
    run = tmp_path / 'run'
    assert (
        'chance' in printed
        and 'left' in printed
        and f'validate.py --checkpoint {run / "model_best.pth.tar"}' in printed
    )
    assert '[   3/3]' in printed  # 19 images in batches of 8: the last, smaller one is kept
    rows = read_summary(run)
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert float(rows[-1]['eval_mAP']) == last['mAP']
    assert (run / 'curves.png').read_bytes().startswith(b'\x89PNG')
    checkpoint = torch.load(run / 'last.pth.tar', weights_only=False)
    assert checkpoint['args'].class_names == list(demo.SHAPES)

    result = validate(['--checkpoint', str(run / 'last.pth.tar'), '-j', '0'])
    for name, value in last.items():
        assert result[name] == value, name
    results_file = tmp_path / 'r.json'
    best = validate(['--checkpoint', str(run / 'model_best.pth.tar'), '-j', '0', '--results-file', str(results_file)])
    assert best['mAP'] == max(float(row['eval_mAP']) for row in rows)
    assert json.loads(results_file.read_text()) == best


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


@pytest.mark.parametrize(
    'flags',
    [
        ['--model-ema', '--model-ema-decay', '0.5', '--grad-accum-steps', '2', '--channels-last'],
        ['--cropmix', '0.5', '--reprob', '0.5', '--aa', 'trivial', '--oversample-thr', '0.5', '--grad-checkpointing'],
        ['--loss', 'asl', '--mixup', '0.4', '--cutmix', '1', '--mixup-mode', 'elem', '--mixup-off-epoch', '1'],
        ['--amp', '--amp-dtype', 'float16', '--clip-mode', 'value', '--layer-decay', '0.7', '--aug-repeats', '2'],
        [
            '--loss',
            'db',
            '--sched',
            'step',
            '--decay-epochs',
            '1',
            '--no-sched-on-updates',
            '--drop',
            '0.1',
            '--no-aug',
        ],
        ['--loss', 'bce', '--loss-pos-weight', 'neg_pos', '--clip-grad', '0', '--torchcompile', 'eager'],
    ],
)
def test_flags_work_together(flags, tmp_path):
    metrics = train([*TINY, *flags, '--output', str(tmp_path), '--experiment', 'run'])
    ema = ['--use-ema'] if '--model-ema' in flags else []
    result = validate(['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0', *ema])
    assert result['mAP'] == metrics['mAP'] and result['loss'] == metrics['loss']


def test_train_a_timm_model(tmp_path):
    flags = ['--model', 'resnet10t', '--model-kwargs', '--epochs', '1', '--output', str(tmp_path)]
    with pytest.raises(ValueError, match='--batch-size'):  # the last batch would be of one image, its maps of one pixel
        train([*TINY, *flags, '-b', '6'])
    metrics = train([*TINY, *flags])
    assert 0 <= metrics['mAP'] <= 100


def test_pretrained_path(tmp_path):
    """A checkpoint of other classes gives all but the classifier; zero starts the position embedding anew."""
    train([*TINY, '--epochs', '1', '--output', str(tmp_path), '--experiment', 'run'])
    checkpoint = str(tmp_path / 'run' / 'last.pth.tar')
    trained = torch.load(checkpoint, weights_only=False)['state_dict']
    args = training.parse_args([*TINY, '--pretrained-path', checkpoint])
    model = training.create_model(args, 5)
    assert model.num_classes == 5 and torch.equal(model.stem.conv1.conv.weight, trained['stem.conv1.conv.weight'])
    assert torch.equal(model.stem.pos_embed, trained['stem.pos_embed']) and model.stem.pos_embed.any()
    args = training.parse_args([*TINY, '--pretrained-path', checkpoint, '--img-size', '64'])
    assert training.create_model(args, 5).stem.pos_embed.any()
    args.pos_embed_init = 'zero'
    assert not training.create_model(args, 5).stem.pos_embed.any()


def test_errors_are_one_line(tmp_path, capsys, coco_folder):
    train([*TINY, '--epochs', '1', '--output', str(tmp_path), '--experiment', 'run'])
    checkpoint = str(tmp_path / 'run' / 'last.pth.tar')
    coco = ['--dataset', 'coco', '--data-dir', str(coco_folder)]
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
        (['train', *TINY, *coco, '--train-split', 'train', '--val-split', 'val'], '1 of 4 images.*007.png'),
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
        (['train', '--resume', str(tmp_path / 'run')], 'is a folder, give .*last.pth.tar'),
        (['train', *TINY, '--loss', 'twoway', '--mixup', '1'], 'twoway'),
        (['train', *TINY, '--smoothing', '0.1'], 'gkgnet.*smoothing'),
        (['train', '-c', 'nope'], "'nope'.*coco2014_576"),
        (['train', '-c', str(tmp_path / 'config.yaml')], "'epoch', 'epochs'"),
        (['train', '-c', str(tmp_path / 'type.yaml')], "epochs is 'many', expected int"),
        (['train', '-c', str(tmp_path / 'broken.yaml')], 'not YAML'),
        (['train', '--resume', 'auto'], '--experiment'),
        (['train', '--resume', str(tmp_path / 'nope.pth.tar')], 'nope.pth.tar'),
        (['train', '--resume', str(tmp_path / 'other.pth.tar')], 'other.pth.tar.*no checkpoint'),
        (
            [
                'train',
                *coco,
                '--train-split',
                'train',
                '--val-split',
                'val',
                '--resume',
                checkpoint,
                '--on-bad-image',
                'skip',
            ],
            '8 classes.*has 3',
        ),  # fmt: skip
        (['train', '--resume', checkpoint, '--model', 'resnet10t', '--model-kwargs'], 'does not fit'),
        (['train', '--resume', checkpoint, '--experiment', 'other'], 'goes on in the folder'),
        (['validate'], '--checkpoint'),
        (['validate', '--checkpoint', 'nope.pth.tar'], 'nope.pth.tar'),
        (['validate', '--checkpoint', checkpoint, *coco, '--split', 'val'], 'knows 8 classes'),
        (['check-data', *coco, '--split', 'val'], '1 images can not be read'),
        (['check-data', *coco, '--split', 'nope'], 'instances_nope.json'),
    ]
    for argv, message in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(argv)
        assert stopped.value.code == 2, argv
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and re.search(message, error), (argv, error)


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
    assert error.count('\n') == 1 and '005.png' in error
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
    assert 'Continue behind epoch 3' in capsys.readouterr().out


def test_resume_from_an_older_checkpoint_forgets_later_ones(tmp_path):
    task = types.SimpleNamespace(get_checkpoint_state=lambda ema=False, **_: {} if ema else {'state_dict': {}})
    arguments = dict(model=torch.nn.Identity(), optimizer=torch.optim.SGD([torch.zeros(1)], 0.1), task=task)
    saver = SafeSaver(**arguments, checkpoint_dir=str(tmp_path))
    for epoch, metric in enumerate((5.0, 4.0, 6.0)):
        saver.save_checkpoint(epoch, metric)
    saver = SafeSaver(**arguments, checkpoint_dir=str(tmp_path))
    saver.resume(str(tmp_path / 'checkpoint-1.pth.tar'))
    assert (saver.best_metric, saver.best_epoch) == (5.0, 0)
    assert torch.load(tmp_path / 'model_best.pth.tar')['epoch'] == 0


def test_kill_before_a_full_history_takes_the_best_epoch(tmp_path, monkeypatch):
    task = types.SimpleNamespace(get_checkpoint_state=lambda ema=False, **_: {} if ema else {'state_dict': {}})
    arguments = dict(model=torch.nn.Identity(), optimizer=torch.optim.SGD([torch.zeros(1)], 0.1), task=task)
    arguments.update(checkpoint_dir=str(tmp_path), max_history=2)
    saver = SafeSaver(**arguments)
    for epoch, metric in enumerate((5.0, 4.0)):
        saver.save_checkpoint(epoch, metric)
    with monkeypatch.context() as patch:
        patch.setattr(saver, '_cleanup_checkpoints', lambda trim: sys.exit())  # behind last, before all else
        with pytest.raises(SystemExit):
            saver.save_checkpoint(2, 6.0)
    saver = SafeSaver(**arguments)
    saver.resume(str(tmp_path / 'last.pth.tar'))
    assert (saver.best_metric, saver.best_epoch) == (6.0, 2)
    assert torch.load(tmp_path / 'model_best.pth.tar')['epoch'] == 2
    assert {path.name for path in tmp_path.glob('checkpoint-*')} == {'checkpoint-0.pth.tar', 'checkpoint-2.pth.tar'}


def test_average_that_is_not_evaluated(tmp_path, capsys):
    metrics = train([*TINY, '--model-ema', '--model-ema-force-cpu', '--output', str(tmp_path), '--experiment', 'run'])
    assert '--use-ema' not in capsys.readouterr().out
    assert validate(['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0'])['mAP'] == metrics['mAP']


def test_model_that_diverges(tmp_path):
    flags = ['--lr', '1e30', '--clip-grad', '0', '--warmup-epochs', '0', '--max-bad-steps', '100']
    with pytest.raises(TrainingError, match='Epoch 1 can not be evaluated.*nan.*--lr'):
        train([*TINY, *flags, '--output', str(tmp_path)])


class Diverging(torch.nn.Module):
    """A loss that is nan at some calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.count = calls, 0

    def forward(self, logits, target):
        self.count += 1
        return logits.mean() * (torch.nan if self.count in self.calls else 1)


@pytest.mark.parametrize('accum', ['1', '2'])
def test_loss_that_is_not_finite(accum, tmp_path, monkeypatch, capsys):
    flags = [*TINY, '-b', '4', '--output', str(tmp_path), '--experiment', 'run', '--max-bad-steps', '1']
    flags += ['--grad-accum-steps', accum]
    monkeypatch.setattr(training, 'create_loss', lambda *_: Diverging({2}))
    train(flags)  # 5 batches an epoch
    assert capsys.readouterr().out.count('Skipped an update: the loss is nan at epoch 1') == 1
    monkeypatch.setattr(training, 'create_loss', lambda *_: Diverging({7, 9}))
    with pytest.raises(SystemExit):
        command(['train', *flags])
    assert re.search('loss is nan at epoch 2, update .*checkpoint is kept', capsys.readouterr().err)
    state = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)
    assert state['epoch'] == 0 and all(value.isfinite().all() for value in state['state_dict'].values())


def test_skipped_update_leaves_no_trace(tmp_path, monkeypatch):
    """The running statistics that the bad forward pass has spoiled are those of before."""

    class Spoiling(Diverging):
        def forward(self, logits, target):
            loss = super().forward(logits, target)
            if self.count in self.calls:
                for module in task.get_trainable_module().modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.running_mean.fill_(torch.nan)
            return loss

    create_task = training.create_task

    def spoiled_task(*args):
        nonlocal task
        task = create_task(*args)
        task.criterion = Spoiling({1})
        return task

    task = None
    monkeypatch.setattr(training, 'create_task', spoiled_task)
    metrics = train([*TINY, '--epochs', '1', '--output', str(tmp_path)])
    assert metrics['loss'] == metrics['loss']


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, 'isatty', lambda: True, raising=False)
    train([*TINY, '--epochs', '1', '--output', str(tmp_path)])
    printed = capsys.readouterr().out
    assert '3/3' in printed and 'img/s' in printed and 'lr' in printed and 'left in all' in printed
    assert not re.search(r'^epoch 1/1 \[', printed, re.M)


def test_wandb_by_flag(tmp_path, monkeypatch):
    flags = [*TINY, '--output', str(tmp_path), '--experiment', 'run', '--log-wandb', '--wandb-project', 'shapes']
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError, match='pip install wandb'):
        train(flags)
    rows, runs = [], []
    wandb = types.SimpleNamespace(init=lambda **kwargs: runs.append(kwargs), log=rows.append)
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setattr('timm.utils.summary.wandb', wandb, raising=False)
    train(flags)
    assert runs[0]['project'] == 'shapes' and runs[0]['name'] == 'run' and runs[0]['config']['epochs'] == 2
    assert [row['epoch'] for row in rows] == [0, 1] and 'eval_mAP' in rows[0]


def test_check_data(coco_folder, capsys):
    command(['check-data', '--dataset', 'coco', '--data-dir', str(coco_folder), '--split', 'train', 'val', '-j', '1'])
    printed = capsys.readouterr().out
    assert 'train: 4 images, 1 of them without a label' in printed and re.search(r'person +2 +50.00 %', printed)
    assert '4 images read, width 40 to 40, median 40; height 48 to 48' in printed
    (coco_folder / 'val' / '003.png').write_bytes(b'no image')
    with pytest.raises(SystemExit):
        command(['check-data', '--dataset', 'coco', '--data-dir', str(coco_folder), '--split', 'val', '-j', '0'])
    captured = capsys.readouterr()
    assert '003.png' in captured.out and '1 images can not be read' in captured.err


def test_unknown_command(capsys):
    for name, message in (('valdate', "'validate'?"), ('xyz', 'expected one of train, validate, predict')):
        with pytest.raises(SystemExit) as stopped:
            command([name, '--checkpoint', 'x'])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count('\n') == 1
        assert f'unknown command {name!r}' in error and message in error


def test_similar_models(capsys):
    for name, similar in (('gkgnet448', 'gkgnet_448'), ('resnet_50', 'resnet50'), ('qqqqqqqqqq', 'timm.list_models()')):
        with pytest.raises(ValueError, match=f"Unknown model '{name}', .*{re.escape(similar)}"):
            train([*TINY, '--model', name])


@pytest.mark.parametrize('argv', [['predict', 'a', '--checkpoint', 'b'], ['validate', '--scores-in', 'a'], ['--help']])
def test_closed_stdout(argv):
    shell = 'exec "$@" >&-'
    result = subprocess.run(
        ['sh', '-c', shell, '-', sys.executable, '-m', 'gkgnet_timm', *argv], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'stdout is closed' in result.stderr


@pytest.mark.parametrize('door', ['train_multilabel.py', 'validate.py'])
def test_scripts_are_doors_to_the_package(door):
    result = subprocess.run([sys.executable, str(ROOT / door), '--help'], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and f'usage: {door}' in result.stdout


def test_hubconf_has_our_models_and_no_other():
    names = {name for name in runpy.run_path(str(ROOT / 'hubconf.py')) if not name.startswith('_')}
    assert names == {'dependencies', *timm.list_models(module=['gkgnet', 'pvig'])}
    model = torch.hub.load(str(ROOT), 'gkgnet_ti_224', source='local', num_classes=3, img_size=64)
    assert model.num_classes == 3
    for name in names - {'dependencies'}:  # what `torch.hub.help` shows
        assert timm.model_entrypoint(name).__doc__
