"""Multi-label training, with the flag names of timm."""

import argparse
import math
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
import yaml

import timm
from timm import utils
from timm.data import create_loader, resolve_input_data_config
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import MultiLabelClassificationTask, evaluation_sample_limit

from .data import create_dataset, label_frequency
from .evaluate import autocast_context, create_eval_loader, evaluate
from .loss import GKGNetLoss

DEFAULT_SPLITS = {
    'demo': ('train', 'val'),
    'coco': ('train2014', 'val2014'),
    'voc': ('2007/trainval', '2007/test'),
}


def add_shared_args(parser: argparse.ArgumentParser) -> None:
    """Flags that training and validation have in common."""
    group = parser.add_argument_group('data and device')
    group.add_argument('--dataset', metavar='NAME', help='demo, coco or voc (default: demo)')
    group.add_argument('--data-dir', metavar='DIR', help='folder of the data set, not needed for demo')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels (default: that of the model)')
    group.add_argument('-j', '--workers', type=int, default=2, metavar='N', help='processes that load images')
    group.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='cpu, cuda, cuda:1, ...'
    )
    group.add_argument('--amp', action='store_true', default=None, help='automatic mixed precision')
    group.add_argument('--amp-dtype', metavar='TYPE', help='bfloat16 or float16 (default: bfloat16)')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='train_multilabel.py',
        description='Train a multi-label model. Without a data set: gkgnet_ti_224 at 64 px on the built-in demo set.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_shared_args(parser)
    group = parser.add_argument_group('splits')
    group.add_argument('--train-split', metavar='NAME', help='(default: train, train2014 or 2007/trainval)')
    group.add_argument('--val-split', metavar='NAME', help='(default: val, val2014 or 2007/test)')

    group = parser.add_argument_group('model')
    group.add_argument('--model', default='gkgnet_ti_224', metavar='NAME', help='any timm model')
    group.add_argument('--pretrained', action='store_true', help='start from pretrained weights')
    group.add_argument('--drop-path', type=float, metavar='RATE', help='stochastic depth')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=utils.ParseKwargs, metavar='KEY=VALUE')
    group.add_argument('--grad-checkpointing', action='store_true', help='less memory, more time')

    group = parser.add_argument_group('optimisation')
    group.add_argument('-b', '--batch-size', type=int, default=32, metavar='N', help='images a step and process')
    group.add_argument('-vb', '--validation-batch-size', type=int, metavar='N', help='(default: batch size)')
    group.add_argument('--epochs', type=int, default=6, metavar='N')
    group.add_argument('--opt', default='adamw', metavar='NAME', help='any timm optimizer')
    group.add_argument('--lr', type=float, default=1e-3, help='learning rate')
    group.add_argument('--weight-decay', type=float, default=0.05)
    group.add_argument('--momentum', type=float, default=0.9, help='for optimizers that have one')
    group.add_argument('--clip-grad', type=float, default=5.0, metavar='NORM', help='largest gradient norm')
    group.add_argument('--sched', default='cosine', metavar='NAME', help='any timm learning rate schedule')
    group.add_argument(
        '--sched-on-updates', action=argparse.BooleanOptionalAction, default=True, help='step per update'
    )
    group.add_argument('--warmup-epochs', type=int, default=1, metavar='N')
    group.add_argument('--warmup-lr', type=float, default=1e-5)
    group.add_argument('--min-lr', type=float, default=0.0)

    group = parser.add_argument_group('augmentation')
    group.add_argument('--no-aug', action='store_true', help='none at all')
    group.add_argument('--scale', type=float, nargs=2, default=[0.7, 1.0], metavar='PCT', help='area of random crops')
    group.add_argument('--hflip', type=float, default=0.5, help='probability')
    group.add_argument('--color-jitter', type=float, default=0.4, help='strength')

    group = parser.add_argument_group('output')
    group.add_argument('--output', default='output/train', metavar='DIR', help='folder of all runs')
    group.add_argument('--experiment', metavar='NAME', help='folder of this run (default: time, model, size)')
    group.add_argument('--log-interval', type=int, default=10, metavar='N', help='updates between lines')
    group.add_argument('--checkpoint-hist', type=int, default=3, metavar='N', help='epoch checkpoints that are kept')
    group.add_argument('--seed', type=int, default=42)
    args = parser.parse_args(argv)

    args.dataset = args.dataset or 'demo'
    if args.dataset != 'demo' and not args.data_dir:
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    train_split, val_split = DEFAULT_SPLITS.get(args.dataset, (None, None))
    args.train_split = args.train_split or train_split
    args.val_split = args.val_split or val_split
    if args.img_size is None and args.dataset == 'demo':
        args.img_size = 64
    args.validation_batch_size = args.validation_batch_size or args.batch_size
    args.amp, args.amp_dtype = bool(args.amp), args.amp_dtype or 'bfloat16'
    return args


def create_model(args: argparse.Namespace, num_classes: int) -> torch.nn.Module:
    """The model of the flags, at their image size.

    Raises:
        ValueError: If timm has no such model.
    """
    if not timm.is_model(args.model):
        similar = ', '.join(timm.list_models(f'*{args.model.split("_")[0]}*')[:8]) or 'see timm.list_models()'
        raise ValueError(f'Unknown model {args.model!r}, similar ones: {similar}.')
    kwargs = dict(args.model_kwargs)
    if getattr(args, 'drop_path', None) is not None:
        kwargs['drop_path_rate'] = args.drop_path
    model = timm.create_model(
        args.model, pretrained=getattr(args, 'pretrained', False), num_classes=num_classes, **kwargs
    )
    if args.img_size and hasattr(model, 'set_input_size'):
        model.set_input_size(args.img_size)
    return model


class Progress:
    """Lines about a training epoch."""

    def __init__(self, args: argparse.Namespace, updates: int):
        self.args, self.updates = args, updates
        self.start = time.perf_counter()

    def report(self, epoch: int, update: int, loss: float, lr: float) -> None:
        """Print a line every `log_interval` updates and at the end of the epoch."""
        done = epoch * self.updates + update + 1
        if (update + 1) % self.args.log_interval and update + 1 < self.updates:
            return
        seconds = time.perf_counter() - self.start
        rate = done * self.args.batch_size * self.args.world_size / seconds
        left = timedelta(seconds=round(seconds / done * (self.args.epochs * self.updates - done)))
        print(
            f'epoch {epoch + 1}/{self.args.epochs} [{update + 1:>4}/{self.updates}]  loss {loss:7.3f}  lr {lr:.2e}  '
            f'{rate:.0f} img/s  {left} left',
            flush=True,
        )


def train_one_epoch(
    epoch: int,
    task: MultiLabelClassificationTask,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    scaler: Optional[utils.NativeScaler],
    autocast: Callable,
    args: argparse.Namespace,
    progress: Progress,
) -> Dict[str, float]:
    """One pass over the training loader.

    Raises:
        RuntimeError: If the loss is not finite.
    """
    task.train()
    parameters = list(task.get_clip_parameters())
    average = utils.AverageMeter()
    for update, (images, target) in enumerate(loader):
        with autocast():
            loss = task(images, target)['loss']
        if not math.isfinite(loss.item()):
            raise RuntimeError(f'The loss is {loss.item()} at epoch {epoch + 1}, update {update + 1}.')
        optimizer.zero_grad()
        if scaler is not None:
            scaler(loss, optimizer, clip_grad=args.clip_grad, parameters=parameters)
        else:
            loss.backward()
            utils.dispatch_clip_grad(parameters, args.clip_grad)
            optimizer.step()
        scheduler.step_update(epoch * len(loader) + update + 1)
        average.update(loss.item(), len(images))
        if utils.is_primary(args):
            progress.report(epoch, update, average.avg, optimizer.param_groups[0]['lr'])
    return {'loss': average.avg}


def main(argv: Optional[List[str]] = None) -> Dict[str, float]:
    """Train as the flags say, returns the metrics of the last epoch."""
    args = parse_args(argv)
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)
    autocast = autocast_context(device, args.amp, args.amp_dtype)

    # the first process draws the demo set
    if args.distributed and not utils.is_primary(args):
        torch.distributed.barrier()
    datasets = [
        create_dataset(args.dataset, args.data_dir, split, is_training)
        for split, is_training in ((args.train_split, True), (args.val_split, False))
    ]
    if args.distributed and utils.is_primary(args):
        torch.distributed.barrier()
    train_set, val_set = datasets
    args.class_names = train_set.reader.class_names
    if val_set.reader.class_names != args.class_names:
        raise ValueError(f'Splits {args.train_split!r} and {args.val_split!r} have different classes.')
    if len(train_set) < args.batch_size * args.world_size:
        raise ValueError(f'{len(train_set)} training images do not fill one batch of {args.batch_size}, see -b.')

    model = create_model(args, len(args.class_names)).to(device)
    if args.grad_checkpointing:
        model.set_grad_checkpointing()
    data_config = resolve_input_data_config(model, args=vars(args))
    train_loader = create_loader(
        train_set,
        input_size=data_config['input_size'],
        interpolation=data_config['interpolation'],
        mean=data_config['mean'],
        std=data_config['std'],
        batch_size=args.batch_size,
        is_training=True,
        no_aug=args.no_aug,
        scale=args.scale,
        hflip=args.hflip,
        color_jitter=args.color_jitter,
        num_workers=args.workers,
        distributed=args.distributed,
        pin_memory=device.type == 'cuda',
        device=device,
    )
    val_loader = create_eval_loader(
        val_set, data_config, args.validation_batch_size, device, args.workers, args.distributed
    )

    task = MultiLabelClassificationTask(model, criterion=GKGNetLoss(), device=device, verbose=False)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(args))
    scaler = utils.NativeScaler(device.type) if args.amp and args.amp_dtype == 'float16' else None
    if args.distributed:
        task.prepare_distributed(device_ids=[device] if device.type == 'cuda' else None)
    scheduler, args.epochs = create_scheduler_v2(
        optimizer, **scheduler_kwargs(args, decreasing_metric=False), updates_per_epoch=len(train_loader)
    )

    chance = 100 * label_frequency(val_set).mean().item()
    saver = output = None
    if utils.is_primary(args):
        size = data_config['input_size'][-1]
        name = args.experiment or f'{datetime.now():%Y%m%d-%H%M%S}-{args.model}-{size}'
        output = Path(utils.get_outdir(args.output, name))
        saver = utils.CheckpointSaver(
            model, optimizer, args=args, amp_scaler=scaler, checkpoint_dir=str(output),
            max_history=args.checkpoint_hist, task=task,
        )  # fmt: skip
        (output / 'args.yaml').write_text(yaml.safe_dump(vars(args), sort_keys=False))
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f'{args.model}, {parameters / 1e6:.1f} M parameters, {size} px, on {args.dataset}: {len(train_set)} images '
            f'to train, {len(val_set)} to evaluate, {len(args.class_names)} classes'
        )

    progress = Progress(args, len(train_loader))
    metrics: Dict[str, float] = {}
    for epoch in range(args.epochs):
        if args.distributed:
            train_loader.sampler.set_epoch(epoch)
        lr = optimizer.param_groups[0]['lr']
        train_metrics = train_one_epoch(
            epoch, task, train_loader, optimizer, scheduler, scaler, autocast, args, progress
        )
        if args.distributed:
            utils.distribute_bn(model, args.world_size, reduce=True)
        evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(val_loader))
        metrics = evaluate(task.get_eval_model(), val_loader, evaluator, autocast, args.distributed)
        scheduler.step(epoch + 1, metrics['map'])
        if saver is not None:
            utils.update_summary(epoch, train_metrics, metrics, output / 'summary.csv', lr=lr)
            best, best_epoch = saver.save_checkpoint(epoch, metric=metrics['map'])
            print(f'epoch {epoch + 1}: mAP {metrics["map"]:.2f} (chance {chance:.2f}), best {best:.2f}', flush=True)
    if saver is not None:
        print(f'Best mAP {best:.4f} after epoch {best_epoch + 1}. Scores that ignore the image: {chance:.4f}.')
        print(f'To reproduce it: python validate.py --checkpoint {output / "model_best.pth.tar"}')
    if args.distributed:
        torch.distributed.destroy_process_group()
    return metrics
