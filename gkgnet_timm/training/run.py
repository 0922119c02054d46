"""A training run: the loop over the epochs, and what it leaves in its folder."""

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Dict, Optional

import torch
import yaml
from torch.nn.parallel import DistributedDataParallel

from timm import utils
from timm.models import safe_model_name

from ..data import start_epoch
from ..data.check import check_labels
from ..data.images import describe_unreadable
from ..evaluation.evaluate import SAME_SPLIT
from ..inference.device import Process, autocast_context, start_process
from ..inference.precision import agree_on_amp
from ..runtime import blame, command_line, replacing
from ..weights.file import read_training
from ..weights.preprocessing import resolve_preprocessing
from .build import check_last_batch, check_start, create_datasets, create_loaders, create_optimizer, create_task
from .checkpoint import SafeSaver, TrainTask, open_run, resume_run
from .config import TrainConfig
from .criterion import choose_loss
from .curves import draw_curves
from .epoch import train_one_epoch, updates_of
from .evaluate import METRICS, evaluate_epoch
from .freeze import scale_trunk_rate, set_frozen
from .logs import RunLog
from .pictures import draw_batch
from .progress import Progress
from .report import report_run
from .schedule import create_schedule

__all__ = ['train']

EXPLODED = 3  # times the first loss: more than batches differ


def train(config: TrainConfig, resume: Optional[str] = None) -> Dict[str, float]:
    """Train a model, as train_multilabel.py does. Runs under `torchrun` as well.

    `output/experiment` then holds `args.yaml`, `summary.csv`, `curves.png`, `last.pth.tar`, `model_best.pth.tar`, the
    checkpoints of the best epochs, `train_batch.png` with `log_images`, and `report/index.html` with `report`.

    Args:
        config: All about the run.
        resume: Checkpoint in that folder to continue from, to the same result bit for bit on one device.

    Returns:
        Metrics of the last epoch, in percent, of the better of raw and averaged weights; none without evaluation.

    Raises:
        OSError, ValueError: If files or arguments are wrong. Whatever can be checked is checked before the first step.
        TrainingError: If the loss or the scores stop being finite.
    """
    _check(config, resume)
    config = choose_loss(config)
    process = start_process(config.device)
    if config.amp == 'auto' and resume and (trained := read_training(resume)):
        config = replace(config, amp=trained.config.get('amp', False))  # as before, whatever the speed is now
    config = replace(config, amp=agree_on_amp(config.amp, config.amp_dtype, process))
    config = _name_run(config, process)
    output = Path(config.output, config.experiment)
    with open_run(output, resume) if process.is_primary else nullcontext():
        return _train(config, resume, process, output)


def _train(config: TrainConfig, resume: Optional[str], process: Process, output: Path) -> Dict[str, float]:
    """Train in a folder that no other run works in."""
    check_start(config, is_resumed=bool(resume))
    bad_images = output / 'bad_images.txt'
    if process.is_primary and not resume:
        bad_images.unlink(missing_ok=True)

    # the first process draws the demo set
    if process.is_distributed and not process.is_primary:
        torch.distributed.barrier()
    trained = read_training(resume) if resume else None
    bad = bad_images if config.on_bad_image == 'skip' else None
    train_set, val_set = create_datasets(config, process, bad, trained and trained.held_out)
    if process.is_distributed and process.is_primary:
        torch.distributed.barrier()
    config = replace(
        config,
        train_split=train_set.split,
        train_images=train_set.images,
        **(dict(val_split=val_set.split, val_images=val_set.images) if val_set and not config.val_fraction else {}),
    )

    task = create_task(config, train_set, process, is_resumed=bool(resume))
    if config.val_fraction:
        task.facts['held_out'] = [val_set.filename(row) for row in range(len(val_set))]
    if val_set and getattr(val_set, 'is_training_split', False):
        task.facts['is_training_split'] = True
    for dataset in (train_set, val_set):
        check_labels(dataset)
    model = task.get_trainable_module()
    data_config = resolve_preprocessing(model, args=config.to_dict())
    train_loader, val_loader = create_loaders(config, train_set, val_set, data_config, process)
    check_last_batch(train_loader, model, config.batch_size, data_config['input_size'])
    updates = updates_of(len(train_loader), config.grad_accum_steps)
    optimizer = create_optimizer(config, model)
    if config.backbone_lr_scale != 1:
        scale_trunk_rate(optimizer, model, config.backbone_lr_scale)
    scaler = utils.NativeScaler(process.device.type) if config.amp and config.amp_dtype == 'float16' else None
    if config.model_ema:
        ema_device = 'cpu' if config.model_ema_force_cpu else None
        task.setup_ema(config.model_ema_decay, use_warmup=config.model_ema_warmup, device=ema_device)
    first_epoch = resume_run(resume, task, optimizer, scaler) if resume else 0
    if config.freeze == 'trunk':
        set_frozen(model, config.is_frozen(first_epoch))
    if config.torchcompile:
        task.compile(backend=config.torchcompile)
    _distribute(task, process)
    with blame('--sched'):
        scheduler, epochs = create_schedule(config, optimizer, updates)
    scheduler.step_update(first_epoch * updates)
    scheduler.step(first_epoch)
    autocast = autocast_context(process.device, config.amp, config.amp_dtype)

    saver = progress = log = None
    if process.is_primary:
        saver = SafeSaver(
            model,
            optimizer,
            amp_scaler=scaler,
            checkpoint_dir=str(output),
            decreasing=config.is_lower_better,
            max_history=config.checkpoint_hist,
            task=task,
        )
        if resume:
            saver.resume(resume)
        log = RunLog(config, output, first_epoch, trained and trained.wandb_id)
        with replacing(output / 'args.yaml') as file:
            yaml.safe_dump(config.to_dict(), file, sort_keys=False)
        if log.wandb_id:
            task.facts['wandb_id'] = log.wandb_id
        progress = Progress(epochs, first_epoch, updates, config.log_interval)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(f'{config.model}, {parameters:.1f} M parameters, {data_config["input_size"][-1]} px, to {output}')
        starts = (config.pretrained, config.pretrained_path, config.initial_checkpoint, resume)
        if config.freeze == 'trunk' and not any((*starts, config.model_kwargs.get('pretrained_backbone'))):
            print('Warning: --freeze trunk keeps weights that were never trained, give --pretrained.')
        if resume:
            print(f'Resumed after epoch {first_epoch} of {resume}.')

    result, first = None, math.nan
    for epoch in range(first_epoch, epochs):
        if _has_stalled(config, epoch, saver, process):
            break
        if config.freeze == 'trunk' and epoch == config.freeze_epochs:
            set_frozen(model, False)
            _distribute(task, process)
        start_epoch(train_loader, config.seed, epoch, process.rank)
        if config.mixup_off_epoch and epoch >= config.mixup_off_epoch:
            train_loader.loader.collate_fn.mixup = None
        if config.log_images and process.is_primary and epoch == first_epoch:
            draw_batch(output / 'train_batch.png', train_loader, train_set.class_names, data_config, keep=bool(resume))
            start_epoch(train_loader, config.seed, epoch, process.rank)  # the batch is drawn again
        with progress.show(epoch) if progress else nullcontext():
            train_metrics = train_one_epoch(
                epoch, task, train_loader, optimizer, scheduler, scaler, autocast, config, process, progress
            )
        if val_loader is not None:
            result = evaluate_epoch(epoch, task, val_loader, autocast, config, process)
            if config.evaluates_average:
                task.facts['best_weights'] = result.weights
        scheduler.step(epoch + 1)
        if process.is_primary:
            lr, start = train_metrics.pop('lr'), train_metrics.pop('start')
            first = start if epoch == first_epoch else first
            loss = train_metrics['loss']
            if loss > EXPLODED * abs(first):
                print(
                    f'Warning: the loss was {first:.4g} at first and is {loss:.4g} in epoch {epoch + 1}: --lr '
                    f'{config.lr:g} is probably too high, try {config.lr / 10:g}.'
                )
            metric = result and result.metrics[config.eval_metric]
            log.write(epoch, train_metrics, result, lr, saver.best_epoch_with(epoch, metric))
            saver.save_checkpoint(epoch, metric)
    if process.is_primary:
        log.close()
        _announce_end(config, task, output, saver, len(train_set) + len(val_set or ()))
    if process.is_distributed:
        torch.distributed.destroy_process_group()
    if process.is_primary and config.report:
        report_run(config, output, val_set, process.device, bool(task.facts.get('is_training_split')))
    return result.metrics if result else {}


def _check(config: TrainConfig, resume: Optional[str]) -> None:
    """Raise a ValueError for names that only the libraries know, and for what depends on `resume`."""
    if config.eval_metric not in METRICS:
        raise ValueError(f'--eval-metric {config.eval_metric!r} is not one of {", ".join(METRICS)}.')
    if config.torchcompile and config.torchcompile not in torch.compiler.list_backends(exclude_tags=()):
        backends = ', '.join(torch.compiler.list_backends())
        raise ValueError(f'--torchcompile {config.torchcompile!r} is not one of {backends}.')
    if config.freeze_epochs and config.freeze == 'none':
        raise ValueError('--freeze-epochs says for how long to freeze: give --freeze trunk as well.')
    if config.init_labels_by_name and not (config.pretrained or config.pretrained_path or resume):
        raise ValueError('--init-labels-by-name needs pretrained weights: give --pretrained or --pretrained-path FILE.')


def _name_run(config: TrainConfig, process: Process) -> TrainConfig:
    """A run without a name gets one of time, model and size, the same in all processes, whose clocks may differ."""
    if config.experiment:
        return config
    size = f'-{config.img_size}' if config.img_size else ''
    name = f'{datetime.now():%Y%m%d-%H%M%S}-{safe_model_name(config.model)}{size}'
    endings = itertools.chain([''], (f'-{number}' for number in itertools.count(1)))  # runs of the same second
    names = [next(name + ending for ending in endings if not Path(config.output, name + ending).exists())]
    if process.is_distributed:
        torch.distributed.broadcast_object_list(names, src=0)
    return replace(config, experiment=names[0])


def _distribute(task: TrainTask, process: Process) -> None:
    """Wrap the model for a distributed run, again if its trainable parameters are others."""
    if not process.is_distributed:
        return
    module = task.get_trainable_module()
    task.trainable_module = module.module if isinstance(module, DistributedDataParallel) else module
    # each process keeps its own running statistics until distribute_bn
    device_ids = [process.device] if process.device.type == 'cuda' else None
    task.prepare_distributed(device_ids=device_ids, broadcast_buffers=False)


def _has_stalled(config: TrainConfig, epoch: int, saver: Optional[SafeSaver], process: Process) -> bool:
    """Whether the metric has not become better for `patience` epochs before this one."""
    if not config.patience:
        return False
    stalled = [bool(saver) and saver.best_epoch is not None and epoch - 1 - saver.best_epoch >= config.patience]
    if process.is_distributed:
        torch.distributed.broadcast_object_list(stalled, src=0)
    if stalled[0] and process.is_primary:
        print(f'Stopped after epoch {epoch}: no better {config.eval_metric} for {config.patience} epochs (--patience).')
    return stalled[0]


def _announce_end(config: TrainConfig, task: TrainTask, output: Path, saver: SafeSaver, images: int) -> None:
    """Say what came out of a run on a number of images, and where it is."""
    checkpoint = output / ('last.pth.tar' if config.no_val else 'model_best.pth.tar')
    command = command_line('validate', '--checkpoint', checkpoint)
    command = f'To evaluate it: {command} --split NAME' if config.no_val else f'To reproduce it: {command}'
    if config.no_val:
        print(f'Trained without evaluation, the result is the last checkpoint: {checkpoint}')
        if config.model_ema:
            print('It is taken with its raw weights, and with their average by --use-ema.')
    else:
        weights = ''
        if config.evaluates_average:
            names = {'raw': ', raw weights', 'average': ', average of the weights'}
            weights = names.get(read_training(checkpoint).best_weights, '')
        best = f'Best {config.eval_metric} {saver.best_metric:.4f} after epoch {saver.best_epoch + 1}{weights}'
        print(f'{best}: {checkpoint}')
    if task.facts.get('is_training_split'):
        print(f'Warning: {SAME_SPLIT}')
    print(command)
    if (output / 'summary.csv').is_file():
        draw_curves(output / 'summary.csv', output / 'curves.png', config.eval_metric, config.experiment)
        print(f'Curves: {output / "curves.png"}')
    bad_images = output / 'bad_images.txt'
    if bad_images.is_file():
        listed = bad_images.read_text(encoding='utf-8', errors='surrogateescape')
        print(f'{describe_unreadable(len(set(listed.splitlines())), images)}; {bad_images} lists them.')
