"""Multi-label training, with the flag names of timm."""

import argparse
import copy
import shlex
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
import yaml

from timm import utils
from timm.data import resolve_input_data_config
from timm.layers import convert_sync_batchnorm
from timm.loss import CLASS_WEIGHT_METHODS, load_class_stats
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.task import MultiLabelClassificationTask, evaluation_sample_limit

from ..commands.flags.training import flag_values, parse_args
from ..data import create_dataset, create_eval_loader, create_train_loader, create_train_transform, start_epoch
from ..data.check import check_files, check_splits, class_counts, describe
from ..data.splits import data_kwargs
from ..evaluation.evaluate import autocast_context, evaluate
from ..loss import create_loss
from ..metrics import MultiLabelEvaluator
from ..runtime import blame
from ..weights.load import create_model, create_model_by_labels
from .checkpoint import SafeSaver, resume_run, trim_summary_file
from .curves import draw_curves
from .epoch import TrainingError, train_one_epoch, updates_of
from .progress import Progress
from .schedule import create_schedule


def create_datasets(args: argparse.Namespace, bad_images: Optional[Path]) -> Tuple[Any, Any]:
    """Checked training and evaluation sets of the flags, whose classes `args.class_names` becomes."""
    datasets: List[Any] = []
    for part in ('train', 'val'):
        kwargs = data_kwargs(args)
        if '/' in args.dataset:  # how timm reads a stream
            kwargs.update(
                is_training=part == 'train',
                batch_size=args.batch_size if part == 'train' else args.validation_batch_size,
                num_samples=getattr(args, f'{part}_num_samples'),
                seed=args.seed,
            )
        dataset = create_dataset(
            split=getattr(args, f'{part}_split'),
            images=getattr(args, f'{part}_images'),
            class_names=datasets[0].class_names if datasets else None,
            unknown=args.unknown_labels if part == 'train' else 'ignore',
            bad_images=bad_images,
            **kwargs,
        )
        if utils.is_primary(args):
            print(describe(dataset, getattr(args, f'{part}_split')))
        if args.on_bad_image == 'error':
            check_files(dataset)
        datasets.append(dataset)
    shared = check_splits(*datasets)
    if shared and utils.is_primary(args):
        print(f'Warning: {shared} images are in both splits.')
    args.class_names = datasets[0].class_names
    return datasets[0], datasets[1]


def create_loaders(
    args: argparse.Namespace, train_set: Any, val_set: Any, data_config: Dict[str, Any]
) -> Tuple[Any, Any]:
    """Loaders of the flags."""
    with blame('--aa, --train-interpolation, --scale, --ratio'):
        transform = create_train_transform(
            data_config['input_size'],
            cropmix=args.cropmix,
            reprob=args.reprob,
            no_aug=args.no_aug,
            scale=args.scale,
            ratio=args.ratio,
            hflip=args.hflip,
            vflip=args.vflip,
            color_jitter=args.color_jitter,
            auto_augment=args.aa,
            interpolation=args.train_interpolation,
            mean=data_config['mean'],
            std=data_config['std'],
            train_crop_mode=args.train_crop_mode,
        )
    mixup = None
    if args.mixup or args.cutmix:
        mixup = dict(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
        )
    device = torch.device(args.device)
    train_loader = create_train_loader(
        train_set,
        data_config,
        transform,
        args.batch_size,
        device,
        args.workers,
        seed=args.seed,
        rank=args.rank,
        world_size=args.world_size,
        oversample_thr=args.oversample_thr,
        aug_repeats=args.aug_repeats,
        mixup=mixup,
    )
    val_loader = create_eval_loader(
        val_set, data_config, args.validation_batch_size, device, args.workers, args.distributed
    )
    return train_loader, val_loader


def create_task(args: argparse.Namespace, train_set: Any, device: torch.device) -> MultiLabelClassificationTask:
    """Model and loss of the flags, before they are compiled and distributed."""
    torch.manual_seed(args.seed)
    if args.resume:  # its weights are loaded over
        model = create_model(
            argparse.Namespace(**vars(args) | dict(pretrained=False, pretrained_path=None)), len(args.class_names)
        )
    elif args.init_labels_by_name:
        model, known = create_model_by_labels(args, args.class_names)
        if utils.is_primary(args):
            count = f'{len(known)} of {len(args.class_names)}'
            shown = ', '.join(known[:8]) + (', ...' if len(known) > 8 else '')
            print(f'Rows of {count} classes are those of the pretrained weights: {shown}')
    else:
        model = create_model(args, len(args.class_names))
    model.to(device)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    if args.grad_checkpointing:
        model.set_grad_checkpointing()
    if args.sync_bn and args.distributed:
        if device.type != 'cuda':
            raise ValueError(f'--sync-bn works on CUDA devices only, not on {args.device!r}.')
        model = convert_sync_batchnorm(model)
    with blame('--class-stats'):
        counts = load_class_stats(args.class_stats)
    if counts is not None and len(counts[0]) != len(args.class_names):
        raise ValueError(
            f'{args.class_stats!r} counts {len(counts[0])} classes, the data set has {len(args.class_names)}.'
        )
    by_frequency = {args.loss_class_weight, args.loss_pos_weight} & set(CLASS_WEIGHT_METHODS)
    if counts is None and (args.loss == 'db' or by_frequency):
        counts = class_counts(train_set)
    return MultiLabelClassificationTask(
        model, criterion=create_loss(args, len(args.class_names), counts), device=device, verbose=False
    )


def check_last_batch(
    loader: Any, model: torch.nn.Module, args: argparse.Namespace, input_size: Tuple[int, ...]
) -> None:
    """Raise a ValueError if an epoch has a batch of a single image and the model can't be trained on that."""
    sampler = loader.sampler
    if args.batch_size > 1 and (not hasattr(sampler, 'set_epoch') or len(sampler) % args.batch_size != 1):
        return
    probe = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            probe(torch.zeros(1, *input_size, device=args.device))
    except ValueError as error:  # batch normalisation of a single value
        raise ValueError(
            f'An epoch has a batch of a single image, on which {args.model} can not be trained at this size: '
            'give another --batch-size.'
        ) from error


def announce_end(args: argparse.Namespace, output: Path, best: Optional[float], best_epoch: Optional[int]) -> None:
    """Say what came out of a run and where it is."""
    checkpoint = output / 'model_best.pth.tar'
    print(f'Best {args.eval_metric} {best:.4f} after epoch {best_epoch + 1}: {checkpoint}')
    averaged = args.model_ema and not args.model_ema_force_cpu
    command = f'python validate.py --checkpoint {shlex.quote(str(checkpoint))}' + (' --use-ema' if averaged else '')
    print(f'To reproduce it: {command}')
    if (output / 'summary.csv').is_file():
        draw_curves(output / 'summary.csv', output / 'curves.png', args.eval_metric)
        print(f'Curves: {output / "curves.png"}')
    bad_images = output / 'bad_images.txt'
    if bad_images.is_file():
        count = len(set(bad_images.read_text().splitlines()))
        print(f'{count} images could not be read and were left out, {bad_images} lists them.')


def main(argv: Optional[List[str]] = None) -> Dict[str, float]:
    """Train as the flags say, returns the metrics of the last epoch."""
    args = parse_args(argv)
    with blame('--device'):
        device = utils.init_distributed_device(args)
    primary = utils.is_primary(args)
    if args.distributed:  # the clock that names a run may differ
        names = [args.experiment]
        torch.distributed.broadcast_object_list(names, src=0)
        args.experiment = names[0]
    autocast = autocast_context(device, args.amp, args.amp_dtype)
    output = Path(args.output, args.experiment)
    if args.eval_metric not in MultiLabelEvaluator.metric_names:
        raise ValueError(
            f'--eval-metric {args.eval_metric!r} is not one of {", ".join(MultiLabelEvaluator.metric_names)}.'
        )
    if primary:
        output.mkdir(parents=True, exist_ok=True)
        if not args.resume:
            (output / 'bad_images.txt').unlink(missing_ok=True)

    # the first process draws the demo set
    if args.distributed and not primary:
        torch.distributed.barrier()
    train_set, val_set = create_datasets(args, output / 'bad_images.txt' if args.on_bad_image == 'skip' else None)
    if args.distributed and primary:
        torch.distributed.barrier()

    task = create_task(args, train_set, device)
    model = task.get_trainable_module()
    data_config = resolve_input_data_config(model, args=vars(args))
    train_loader, val_loader = create_loaders(args, train_set, val_set, data_config)
    check_last_batch(train_loader, model, args, data_config['input_size'])
    updates = updates_of(len(train_loader), args)
    with blame('--opt, --opt-betas, --opt-kwargs'):
        optimizer = create_optimizer_v2(model, **optimizer_kwargs(args), **args.opt_kwargs)
    scaler = utils.NativeScaler(device.type) if args.amp and args.amp_dtype == 'float16' else None
    if args.model_ema:
        ema_device = 'cpu' if args.model_ema_force_cpu else None
        task.setup_ema(args.model_ema_decay, use_warmup=args.model_ema_warmup, device=ema_device)
    first_epoch = resume_run(args.resume, args, task, optimizer, scaler) if args.resume else 0
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if args.distributed:
        # each process keeps its own running statistics until distribute_bn
        device_ids = [device] if device.type == 'cuda' else None
        task.prepare_distributed(device_ids=device_ids, broadcast_buffers=False)
    with blame('--sched'):
        scheduler, epochs = create_schedule(args, optimizer, updates)
    scheduler.step_update(first_epoch * updates)
    scheduler.step(first_epoch)

    saver = progress = best = best_epoch = None
    if primary:
        saver = SafeSaver(
            model,
            optimizer,
            args=args,
            amp_scaler=scaler,
            checkpoint_dir=str(output),
            decreasing=args.eval_metric == 'loss',
            max_history=args.checkpoint_hist,
            task=task,
        )
        if args.resume:
            saver.resume(args.resume)
            best, best_epoch = saver.best_metric, saver.best_epoch
        trim_summary_file(output / 'summary.csv', first_epoch)
        (output / 'args.yaml').write_text(yaml.safe_dump(flag_values(args), sort_keys=False))
        if args.log_wandb:
            start_wandb(args)
        progress = Progress(epochs, first_epoch, updates, args.log_interval)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(f'{args.model}, {parameters:.1f} M parameters, {data_config["input_size"][-1]} px, to {output}')
        if args.resume:
            print(f'Continue behind epoch {first_epoch} of {args.resume}.')

    metrics: Dict[str, float] = {}
    for epoch in range(first_epoch, epochs):
        start_epoch(train_loader, args.seed, epoch, args.rank)
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            train_loader.loader.collate_fn.mixup = None
        train_metrics = train_one_epoch(
            epoch, task, train_loader, optimizer, scheduler, scaler, autocast, args, progress
        )
        for ema in (False, True) if args.model_ema and not args.model_ema_force_cpu else (False,):
            eval_model = task.get_eval_model(ema=ema)
            eval_model = getattr(eval_model, 'module', eval_model)  # without DistributedDataParallel or averaging
            if args.distributed and args.dist_bn:
                utils.distribute_bn(eval_model, args.world_size, reduce=args.dist_bn == 'reduce')
            evaluator = MultiLabelEvaluator(device, max_samples=evaluation_sample_limit(val_loader))
            try:
                metrics = evaluate(eval_model, val_loader, evaluator, autocast, args)
            except ValueError as error:  # scores of nan
                problem = f'Epoch {epoch + 1} can not be evaluated: {error}'
                raise TrainingError(f'{problem} The last checkpoint is kept, a lower --lr may help.') from error
            if primary:
                what = ', average of the weights' if ema else ''
                print(f'epoch {epoch + 1}{what}: mAP {metrics["mAP"]:.2f} (chance {evaluator.chance:.2f})', flush=True)
        scheduler.step(epoch + 1)
        if primary:
            lr = train_metrics.pop('lr')
            utils.update_summary(epoch, train_metrics, metrics, output / 'summary.csv', lr=lr, log_wandb=args.log_wandb)
            best, best_epoch = saver.save_checkpoint(epoch, metric=metrics[args.eval_metric])
    if primary:
        announce_end(args, output, best, best_epoch)
    if args.distributed:
        torch.distributed.destroy_process_group()
    return metrics


def start_wandb(args: argparse.Namespace) -> None:
    """Begin a run at Weights & Biases."""
    try:
        import wandb
    except ImportError:
        raise ValueError('--log-wandb needs the package: pip install wandb.') from None
    wandb.init(
        project=args.wandb_project,
        name=args.experiment,
        id=args.experiment,  # by which a resumed run goes on there
        resume='allow',
        config=flag_values(args),
    )
