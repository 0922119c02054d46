"""A training run: the loop over the epochs, and what it leaves in its folder."""

import shlex
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import torch
import yaml

from timm import utils
from timm.data import resolve_input_data_config
from timm.models import safe_model_name
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.task import evaluation_sample_limit

from ..data import start_epoch
from ..data.check import check_labels, check_negatives
from ..inference.device import Process, autocast_context, start_process
from ..inference.predictor import compute_logits
from ..metrics import MultiLabelEvaluator, chance_level
from ..runtime import blame
from .build import check_last_batch, create_datasets, create_loaders, create_task
from .checkpoint import SafeSaver, TrainTask, resume_run, trim_summary_file
from .config import TrainConfig
from .curves import draw_curves
from .epoch import TrainingError, train_one_epoch, updates_of
from .progress import Progress
from .schedule import create_schedule

__all__ = ['train']


def train(config: TrainConfig, resume: Optional[str] = None) -> Dict[str, float]:
    """Train a model, as train_multilabel.py does. Runs under `torchrun` as well.

    `output/experiment` then holds `args.yaml`, `summary.csv`, `curves.png`, `last.pth.tar`, `model_best.pth.tar` and
    the checkpoints of the best epochs.

    Args:
        config: All about the run.
        resume: Checkpoint in that folder to continue from, to the same result bit for bit on one device.

    Returns:
        Metrics of the last epoch, in percent.

    Raises:
        OSError, ValueError: If files or arguments are wrong. Whatever can be checked is checked before the first step.
        TrainingError: If the loss or the scores stop being finite.
    """
    _check(config, resume)
    process = start_process(config.device)
    config = _name_run(config, process)
    output = Path(config.output, config.experiment)
    bad_images = output / 'bad_images.txt'
    if process.is_primary:
        output.mkdir(parents=True, exist_ok=True)
        if not resume:
            bad_images.unlink(missing_ok=True)

    # the first process draws the demo set
    if process.is_distributed and not process.is_primary:
        torch.distributed.barrier()
    train_set, val_set = create_datasets(config, process, bad_images if config.on_bad_image == 'skip' else None)
    if process.is_distributed and process.is_primary:
        torch.distributed.barrier()
    config = replace(
        config,
        train_split=train_set.split,
        train_images=train_set.images,
        val_split=val_set.split,
        val_images=val_set.images,
    )

    task = create_task(config, train_set, process, is_resumed=bool(resume))
    for dataset in (train_set, val_set):
        check_labels(dataset)
    model = task.get_trainable_module()
    data_config = resolve_input_data_config(model, args=config.to_dict())
    train_loader, val_loader = create_loaders(config, train_set, val_set, data_config, process)
    check_last_batch(train_loader, model, config.batch_size, data_config['input_size'])
    updates = updates_of(len(train_loader), config.grad_accum_steps)
    with blame('--opt, --opt-betas, --opt-kwargs'):
        optimizer = create_optimizer_v2(model, **optimizer_kwargs(config), **config.opt_kwargs)
    scaler = utils.NativeScaler(process.device.type) if config.amp and config.amp_dtype == 'float16' else None
    if config.model_ema:
        ema_device = 'cpu' if config.model_ema_force_cpu else None
        task.setup_ema(config.model_ema_decay, use_warmup=config.model_ema_warmup, device=ema_device)
    first_epoch = resume_run(resume, task, optimizer, scaler) if resume else 0
    if config.torchcompile:
        task.compile(backend=config.torchcompile)
    if process.is_distributed:
        # each process keeps its own running statistics until distribute_bn
        device_ids = [process.device] if process.device.type == 'cuda' else None
        task.prepare_distributed(device_ids=device_ids, broadcast_buffers=False)
    with blame('--sched'):
        scheduler, epochs = create_schedule(config, optimizer, updates)
    scheduler.step_update(first_epoch * updates)
    scheduler.step(first_epoch)
    autocast = autocast_context(process.device, config.amp, config.amp_dtype)

    saver = progress = None
    if process.is_primary:
        saver = SafeSaver(
            model,
            optimizer,
            amp_scaler=scaler,
            checkpoint_dir=str(output),
            decreasing=config.eval_metric == 'loss',
            max_history=config.checkpoint_hist,
            task=task,
        )
        if resume:
            saver.resume(resume)
        trim_summary_file(output / 'summary.csv', first_epoch)
        (output / 'args.yaml').write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
        if config.log_wandb:
            _start_wandb(config)
        progress = Progress(epochs, first_epoch, updates, config.log_interval)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(f'{config.model}, {parameters:.1f} M parameters, {data_config["input_size"][-1]} px, to {output}')
        if resume:
            print(f'Resumed after epoch {first_epoch} of {resume}.')

    metrics: Dict[str, float] = {}
    for epoch in range(first_epoch, epochs):
        start_epoch(train_loader, config.seed, epoch, process.rank)
        if config.mixup_off_epoch and epoch >= config.mixup_off_epoch:
            train_loader.loader.collate_fn.mixup = None
        train_metrics = train_one_epoch(
            epoch, task, train_loader, optimizer, scheduler, scaler, autocast, config, process, progress
        )
        for ema in (False, True) if config.evaluates_average else (False,):
            metrics = _evaluate_epoch(epoch, task, val_loader, autocast, config, process, ema)
        scheduler.step(epoch + 1)
        if process.is_primary:
            lr = train_metrics.pop('lr')
            summary = output / 'summary.csv'
            utils.update_summary(epoch, train_metrics, metrics, summary, lr=lr, log_wandb=config.log_wandb)
            saver.save_checkpoint(epoch, metric=metrics[config.eval_metric])
    if process.is_primary:
        _announce_end(config, output, saver)
    if process.is_distributed:
        torch.distributed.destroy_process_group()
    return metrics


def _check(config: TrainConfig, resume: Optional[str]) -> None:
    """Raise a ValueError for names that only the libraries know, and for what depends on `resume`."""
    if config.eval_metric not in MultiLabelEvaluator.metric_names:
        raise ValueError(
            f'--eval-metric {config.eval_metric!r} is not one of {", ".join(MultiLabelEvaluator.metric_names)}.'
        )
    if config.torchcompile and config.torchcompile not in torch.compiler.list_backends(exclude_tags=()):
        backends = ', '.join(torch.compiler.list_backends())
        raise ValueError(f'--torchcompile {config.torchcompile!r} is not one of {backends}.')
    if config.init_labels_by_name and not (config.pretrained or config.pretrained_path or resume):
        raise ValueError('--init-labels-by-name needs pretrained weights: give --pretrained or --pretrained-path FILE.')


def _name_run(config: TrainConfig, process: Process) -> TrainConfig:
    """A run without a name gets one of time, model and size, the same in all processes, whose clocks may differ."""
    if config.experiment:
        return config
    size = f'-{config.img_size}' if config.img_size else ''
    names = [f'{datetime.now():%Y%m%d-%H%M%S}-{safe_model_name(config.model)}{size}']
    if process.is_distributed:
        torch.distributed.broadcast_object_list(names, src=0)
    return replace(config, experiment=names[0])


def _evaluate_epoch(
    epoch: int,
    task: TrainTask,
    loader: Any,
    autocast: Callable[[], AbstractContextManager],
    config: TrainConfig,
    process: Process,
    ema: bool,
) -> Dict[str, float]:
    """Metrics of the model, or of the average of its weights."""
    model = task.get_eval_model(ema=ema)
    model = getattr(model, 'module', model)  # without DistributedDataParallel or averaging
    if process.is_distributed and config.dist_bn:
        utils.distribute_bn(model, process.world_size, reduce=config.dist_bn == 'reduce')
    evaluator = MultiLabelEvaluator(process.device, max_samples=evaluation_sample_limit(loader))
    try:
        for logits, target in compute_logits(model, loader, autocast, channels_last=config.channels_last):
            evaluator.update(logits, target)
        metrics = evaluator.compute(distributed=process.is_distributed)
    except ValueError as error:  # scores of nan
        problem = f'Epoch {epoch + 1} cannot be evaluated: {error}'
        raise TrainingError(f'{problem} The last checkpoint is kept, a lower --lr may help.') from error
    check_negatives(evaluator.gathered[1], 'the evaluation split')  # what a stream has is known only now
    if process.is_primary:
        what, chance = ', average of the weights' if ema else '', chance_level(evaluator.gathered[1])
        print(f'epoch {epoch + 1}{what}: mAP {metrics["mAP"]:.2f} (chance {chance:.2f})', flush=True)
    return metrics


def _announce_end(config: TrainConfig, output: Path, saver: SafeSaver) -> None:
    """Say what came out of a run and where it is."""
    checkpoint = output / 'model_best.pth.tar'
    print(f'Best {config.eval_metric} {saver.best_metric:.4f} after epoch {saver.best_epoch + 1}: {checkpoint}')
    use_ema = ' --use-ema' if config.evaluates_average else ''
    print(f'To reproduce it: python validate.py --checkpoint {shlex.quote(str(checkpoint))}{use_ema}')
    if (output / 'summary.csv').is_file():
        draw_curves(output / 'summary.csv', output / 'curves.png', config.eval_metric)
        print(f'Curves: {output / "curves.png"}')
    bad_images = output / 'bad_images.txt'
    if bad_images.is_file():
        count = len(set(bad_images.read_text().splitlines()))
        print(f'{count} images could not be read and were left out, {bad_images} lists them.')


def _start_wandb(config: TrainConfig) -> None:
    """Begin a run at Weights & Biases."""
    try:
        import wandb
    except ImportError:
        raise ValueError('--log-wandb needs the package: pip install wandb.') from None
    wandb.init(
        project=config.wandb_project,
        name=config.experiment,
        id=config.experiment,  # so that a resumed run continues there
        resume='allow',
        config=config.to_dict(),
    )
