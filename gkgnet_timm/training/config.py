"""Everything that decides a training run. Free of torch: the command line takes its flags from here."""

import os
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Dict, List, Optional, Tuple, Union, get_type_hints

from ..runtime import check_ranges, default_workers, fits, in_words, locate

__all__ = ['LOSSES', 'TrainConfig', 'check_types', 'locate_split']

SCHEDULES = ('cosine', 'step', 'multistep', 'constant', 'poly', 'tanh', 'wsd', 'rsqrt')
LOSSES = ('gkgnet', 'bce', 'asl', 'poly', 'twoway', 'zlpr', 'db')


def option(
    default: Any,
    help: str = '',
    metavar: Optional[str] = None,
    *,
    limits: Optional[Tuple[float, float]] = None,
    group: Optional[str] = None,
    short: Optional[str] = None,
    **choice: Any,
) -> Any:
    """A field that is a flag of train_multilabel.py as well, of the same name, type and default.

    Args:
        default: Value unless given.
        help: What it does.
        metavar: Name of a value in the help.
        limits: Closed range of values.
        group: Heading in the help of this field and those that follow.
        short: A second, short name of the flag.
        choice: `choices`, `nargs` or `const` of the flag, as in argparse.
    """
    if metavar:
        choice['metavar'] = metavar
    metadata = dict(limits=limits, group=group, names=[short] if short else [], flag=dict(choice, help=help))
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_types(values: Dict[str, Any]) -> None:
    """Raise a ValueError that names the first value that is not of the type of its field. Numbers are finite."""
    for name, hint in get_type_hints(TrainConfig).items():
        if name in values and not fits(values[name], hint):
            raise ValueError(f'--{name.replace("_", "-")} must be {in_words(hint)}, got {values[name]!r:.80}.')


def locate_split(dataset: str, split: Optional[str], data_dir: Optional[str]) -> Optional[str]:
    """Absolute path of a file of labels; a split of another kind, such as the name of a folder of coco, as it is."""
    is_file = dataset in ('csv', 'gkgnet') or (dataset == 'coco' and (split or '').endswith('.json'))
    return locate(split, data_dir) or split if split and is_file else split


@dataclass
class TrainConfig:
    """Arguments of `gkgnet_timm.training.run.train`, under the names of the flags of train_multilabel.py.

    `python train_multilabel.py --help` says what each of them does.

    Raises:
        ValueError: If a value is out of range or contradicts another. Names the flag.
    """

    # data, with the flags of other commands
    dataset: str
    data_dir: Optional[str] = None
    class_map: Optional[str] = None
    num_classes: Optional[int] = field(default=None, metadata=dict(limits=(1, inf)))
    drop_unlabelled: bool = False
    input_key: Optional[str] = None
    target_key: Optional[str] = None
    target_format: Optional[str] = None
    bit_depth: Optional[int] = None
    background: Optional[str] = None
    max_pixels: Optional[int] = None
    unknown_labels: Optional[str] = None
    image_column: Optional[str] = None
    label_columns: Optional[str] = None
    label_separator: Optional[str] = None
    ignore_case: bool = False
    table_format: Optional[str] = None
    unlisted: Optional[str] = None
    label_names: Optional[str] = None
    encoding: Optional[str] = None
    group_column: Optional[str] = None
    workers: int = field(default_factory=default_workers, metadata=dict(limits=(0, inf)))

    train_split: Optional[str] = option(None, 'name, or path of an annotation file', 'NAME', group='splits')
    val_split: Optional[str] = option(None, 'the same for evaluation', 'NAME')
    train_images: Optional[str] = option(None, 'folder of the images, unless the split implies it', 'DIR')
    val_images: Optional[str] = option(None, 'the same for evaluation', 'DIR')
    train_where: Optional[str] = option(None, 'csv: rows of the split', 'COLUMN=VALUE')
    val_where: Optional[str] = option(None, 'the same for evaluation, by default of the same table', 'COLUMN=VALUE')
    train_num_samples: Optional[int] = option(None, 'length of a stream', 'N')
    val_num_samples: Optional[int] = option(None, 'the same for evaluation', 'N')
    drop_empty_classes: bool = option(False, 'leave out classes that no training image has')
    val_fraction: Optional[float] = option(
        None, 'hold out this share of the training split for evaluation, stratified by label', 'F'
    )
    no_val: bool = option(False, 'train without evaluation: the last checkpoint is the result')
    allow_same_split: bool = option(False, 'evaluate on the images of training, with a warning on every report')

    model: str = option('gkgnet_224', 'any timm model', 'NAME', group='model')
    pretrained: bool = option(False, 'start from the pretrained weights of its tag')
    pretrained_path: Optional[str] = option(
        None, 'start from this file or folder: Pyramid ViG, GKGNet, a checkpoint, a run, hf-hub:ORG/NAME', 'FILE'
    )
    initial_checkpoint: Optional[str] = option(None, 'the same, of as many classes as the data set', 'FILE')
    init_labels_by_name: bool = option(
        False, 'keep label nodes and score rows of classes that the pretrained weights know by name'
    )
    pos_embed_init: str = option(
        'resample',
        'position embedding if the pretrained weights are for another image size',
        choices=('resample', 'zero'),
    )
    img_size: Optional[int] = option(None, 'image side in pixels (default: that of the model)', 'N', limits=(1, inf))
    in_chans: Optional[int] = option(
        None, 'channels of an image, 3 or 1 (default: that of the model)', 'N', limits=(1, inf)
    )
    crop_pct: Optional[float] = option(
        None, 'share of the resized image in evaluation (default: that of the model)', 'PCT', limits=(0.01, 1.5)
    )
    mean: Optional[List[float]] = option(None, 'of pixels, from 0 to 1 (default: that of the model)', 'MEAN', nargs='+')
    std: Optional[List[float]] = option(None, 'likewise', 'STD', nargs='+')
    drop: Optional[float] = option(None, 'dropout before the classifier', 'RATE')
    drop_path: Optional[float] = option(None, 'stochastic depth', 'RATE')
    model_kwargs: Dict[str, Any] = option({}, 'more model arguments')
    freeze: str = option(
        'none',
        'trunk: train the classifier alone, of GKGNet the label branch; frozen norms keep their statistics',
        choices=('trunk', 'none'),
    )
    freeze_epochs: Optional[int] = option(None, 'train all from then on', 'N', limits=(1, inf))
    backbone_lr_scale: float = option(
        1.0, 'learning rate of the trunk, as a share of that of the rest', 'SHARE', limits=(1e-9, 100)
    )
    grad_checkpointing: bool = option(False, 'less memory, more time')
    torchcompile: Optional[str] = option(None, 'compile the model', 'BACKEND', nargs='?', const='inductor')
    sync_bn: bool = option(False, 'share batch statistics between processes')
    dist_bn: str = option('reduce', 'share running statistics after an epoch', choices=('reduce', 'broadcast', ''))

    # device, with the flags of other commands
    on_bad_image: str = 'error'
    device: Optional[str] = None  # cuda if available, else cpu
    amp: Union[bool, str] = False  # or 'auto'
    amp_dtype: str = 'bfloat16'
    channels_last: bool = False

    batch_size: int = option(16, 'images per step and process', 'N', limits=(1, inf), short='-b', group='optimisation')
    validation_batch_size: Optional[int] = option(None, '(default: batch size)', 'N', limits=(1, inf), short='-vb')
    grad_accum_steps: int = option(1, 'batches per update', 'N', limits=(1, inf))
    opt: str = option('adamw', 'any timm optimizer', 'NAME')
    opt_eps: Optional[float] = option(None, 'of the optimizer (default: its own)', 'EPS')
    opt_betas: Optional[List[float]] = option(None, 'of the optimizer (default: its own)', 'BETA', nargs=2)
    opt_kwargs: Dict[str, Any] = option({}, 'more optimizer arguments')
    lr: float = option(1e-4, 'learning rate, whatever the batch size', limits=(0, inf))
    weight_decay: float = option(0.05, 'except for norms and biases')
    momentum: float = option(0.9, 'for optimizers that have one')
    layer_decay: Optional[float] = option(None, 'layer-wise decay of the learning rate', 'RATE', limits=(0, 1))
    clip_grad: float = option(5.0, 'largest gradient, 0 for no limit', 'NORM', limits=(0, inf))
    clip_mode: str = option('norm', 'what is limited', choices=('norm', 'value', 'agc'))
    max_bad_steps: int = option(10, 'updates per epoch that a non-finite loss may skip', 'N')

    epochs: int = option(30, 'passes over the training split', 'N', limits=(1, inf), group='schedule')
    patience: Optional[int] = option(None, 'stop after N epochs without a better metric', 'N', limits=(1, inf))
    sched: str = option('cosine', 'of the learning rate', choices=SCHEDULES)
    sched_on_updates: bool = option(True, 'step per update, not per epoch')
    warmup_epochs: int = option(1, 'of a rising learning rate', 'N')
    warmup_lr: float = option(1e-7, 'at the first update')
    min_lr: float = option(0.0, 'at the end')
    decay_milestones: List[int] = option([10, 50], 'multistep: first epochs at a lower rate', 'N', nargs='+')
    decay_epochs: Optional[float] = option(
        None, 'step: epochs per rate; wsd, rsqrt: of the decay', 'N', limits=(1e-9, inf)
    )
    decay_rate: float = option(0.1, 'step, multistep: factor; poly: power')
    cooldown_epochs: int = option(0, 'at the lowest rate', 'N')

    loss: Optional[str] = option(
        None, '(default: gkgnet for the models gkgnet*, else bce)', choices=LOSSES, group='loss'
    )
    smoothing: float = option(0.0, 'labels become S / 2 and 1 - S / 2', 'S', limits=(0, 0.999))
    loss_class_weight: Optional[str] = option(None, 'bce, asl: number, list, file, inv_freq or effective_num', 'W')
    loss_pos_weight: Optional[str] = option(None, 'bce, asl: number, list, file or neg_pos', 'W')
    loss_weight_power: float = option(1.0, 'of neg_pos and inv_freq')
    loss_weight_beta: float = option(0.999, 'of effective_num', limits=(1e-9, 1 - 1e-9))
    loss_weight_max: Optional[float] = option(None, 'largest weight', limits=(1e-9, inf))
    class_stats: Optional[str] = option(None, 'json with pos_counts and num_samples of a stream', 'FILE')
    bce_sum: bool = option(False, 'sum over classes')
    asl_gamma_pos: float = option(1.0, 'focusing of present labels', limits=(0, inf))
    asl_gamma_neg: float = option(4.0, 'focusing of absent labels', limits=(0, inf))
    asl_clip: float = option(0.05, 'absent labels below this score do not count', limits=(0, 0.999))
    asl_reduction: str = option('batchmean', 'mean over images or scores, or sum', choices=('batchmean', 'sum', 'mean'))
    poly_epsilon: float = option(2.0, 'weight of the first term')
    poly_gamma: float = option(0.0, 'focusing', limits=(0, inf))
    poly_alpha: Optional[float] = option(None, 'weight of present labels', limits=(0, 1))
    twoway_tp: float = option(4.0, 'temperature of present labels', limits=(1e-6, inf))
    twoway_tn: float = option(1.0, 'temperature of absent labels', limits=(1e-6, inf))
    db_neg_scale: float = option(2.0, 'tolerance for absent labels', limits=(1e-6, inf))
    db_init_bias: float = option(0.05, 'of the logits, by class frequency')
    db_focal_gamma: float = option(2.0, 'focusing', limits=(0, inf))

    no_aug: bool = option(False, 'none at all', group='augmentation')
    cropmix: float = option(0.0, 'probability, in place of random crops', 'P')
    train_crop_mode: Optional[str] = option(None, '(default: rrc)', choices=('rrc', 'rkrc', 'rkrr'))
    scale: List[float] = option([0.08, 1.0], 'area of random crops', 'PCT', nargs=2)
    ratio: List[float] = option([3 / 4, 4 / 3], 'aspect ratio of random crops', 'RATIO', nargs=2)
    train_interpolation: str = option('random', 'random, bilinear, bicubic', 'NAME')
    hflip: float = option(0.5, 'probability of a mirror image', 'P')
    vflip: float = option(0.0, 'probability of an image upside down', 'P')
    color_jitter: float = option(0.4, 'of brightness, contrast and saturation', 'PCT')
    aa: Optional[str] = option(None, 'trivial, or a policy of timm such as rand-m9-mstd0.5, without jitter', 'NAME')
    reprob: float = option(0.0, 'random erasing, with noise', 'P')
    mixup: float = option(0.0, 'sum of two images, 0 for none', 'ALPHA', limits=(0, 100))
    cutmix: float = option(0.0, 'part of another image, 0 for none', 'ALPHA', limits=(0, 100))
    mixup_prob: float = option(1.0, 'of either', 'P', limits=(0, 1))
    mixup_switch_prob: float = option(0.5, 'of cutmix if both are on', 'P', limits=(0, 1))
    mixup_mode: str = option('batch', 'what is mixed alike', choices=('batch', 'pair', 'elem'))
    mixup_off_epoch: int = option(0, 'stop mixing at this epoch', 'N')
    oversample_thr: Optional[float] = option(None, 'repeat images of classes rarer than this fraction', 'F')
    aug_repeats: float = option(0, 'augmentations of an image in an epoch', 'N', limits=(0, 100))

    model_ema: bool = option(
        False,
        'also evaluate and keep a moving average; the better of both is the result',
        group='average of the weights',
    )
    model_ema_decay: float = option(0.9998, 'share that stays at an update', 'RATE', limits=(0, 1))
    model_ema_warmup: bool = option(True, 'lower decay at first, so that early weights do not count for long')
    model_ema_force_cpu: bool = option(False, 'saves memory, without evaluation')

    output: str = option('output/train', 'folder of all runs', 'DIR', group='output')
    experiment: Optional[str] = option(None, 'folder of this run (default: time, model, size)', 'NAME')
    eval_metric: str = option('mAP', 'picks the best checkpoint: mAP, CF1, OF1, loss (of training), bce, ...', 'NAME')
    log_interval: int = option(50, 'updates between lines', 'N', limits=(1, inf))
    checkpoint_hist: int = option(3, 'epoch checkpoints to keep', 'N', limits=(1, inf))
    log_images: bool = option(False, 'draw a batch after augmentation, with its labels, to train_batch.png')
    report: bool = option(False, 'end with the page of validate --report for the best checkpoint, in report/')
    seed: int = option(42, 'decides all that is random', limits=(0, 2**32 - 1))
    log_wandb: bool = option(False, 'log to Weights & Biases')
    wandb_project: Optional[str] = option(None, 'of Weights & Biases', 'NAME')
    log_tensorboard: bool = option(False, 'log to TensorBoard, in the folder of the run')

    def __post_init__(self) -> None:
        if self.unknown_labels is None and self.dataset != 'csv':  # a table decides by itself
            self.unknown_labels = 'positive' if self.dataset == 'voc' else 'ignore'
        if self.validation_batch_size is None:
            self.validation_batch_size = self.batch_size
        check_ranges(self, RANGES)
        check_types(vars(self))
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f'--scale and --ratio run from small to large, got {self.scale} and {self.ratio}.')
        self._check_evaluation()
        if self.is_frozen(self.epochs - 1) and self.backbone_lr_scale != 1:
            raise ValueError(
                'A trunk that is frozen to the end leaves --backbone-lr-scale without effect: leave it out.'
            )
        if self.pretrained_path and self.initial_checkpoint:
            raise ValueError('--pretrained-path and --initial-checkpoint are weights to start from: give one of them.')
        # a resumed run may start elsewhere
        absolute = ('data_dir', 'class_map', 'label_names', 'class_stats', 'pretrained_path', 'initial_checkpoint')
        for name in (*absolute, 'train_split', 'val_split', 'train_images', 'val_images', 'output'):
            if getattr(self, name):
                path = os.path.expanduser(getattr(self, name))  # no shell expands a YAML
                is_absolute = name in absolute and not path.startswith(('hf-hub:', 'hf_hub:', 'local-dir:'))
                setattr(self, name, os.path.abspath(path) if is_absolute else path)
        for part in ('train', 'val'):  # evaluation may run elsewhere
            split, images = (getattr(self, f'{part}_{name}') for name in ('split', 'images'))
            setattr(self, f'{part}_split', locate_split(self.dataset, split, self.data_dir))
            setattr(self, f'{part}_images', images and (locate(images, self.data_dir) or images))

    def _check_evaluation(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f'--val-fraction must be between 0 and 1, got {self.val_fraction}.')
        if self.no_val and self.patience:
            raise ValueError('--patience needs the figures of an evaluation: leave out --no-val.')
        if self.no_val and self.report:
            raise ValueError('--report shows an evaluation: leave out --no-val.')
        ways = [name for name in ('val_fraction', 'no_val') if getattr(self, name)]
        of_split = ('val_split', 'val_where', 'val_images', 'val_num_samples')
        given = [name for name in of_split if getattr(self, name)]
        ways += given[:1] or ['allow_same_split'] * self.allow_same_split
        if len(ways) > 1:
            flags = ' and '.join(f'--{name.replace("_", "-")}' for name in ways)
            raise ValueError(f'{flags} are different ways to evaluate, give one of them.')

    def is_frozen(self, epoch: int) -> bool:
        """Whether the trunk is frozen in an epoch, from 0."""
        return self.freeze == 'trunk' and (self.freeze_epochs is None or epoch < self.freeze_epochs)

    @property
    def evaluates_average(self) -> bool:
        """Whether the average of the weights is evaluated beside the weights themselves."""
        return self.model_ema and not self.model_ema_force_cpu and not self.no_val

    @property
    def is_lower_better(self) -> bool:
        """Whether a lower `eval_metric` is a better one."""
        return self.eval_metric in ('loss', 'bce')

    def to_dict(self) -> Dict[str, Any]:
        """The fields by name, as `args.yaml` and checkpoints keep them."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


RANGES = {item.name: item.metadata['limits'] for item in fields(TrainConfig) if item.metadata.get('limits')}
