"""Everything that decides a training run. Free of torch: the command line takes its defaults from here."""

import os
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Dict, List, Optional

from ..runtime import check_ranges

__all__ = ['TrainConfig']

RANGES = {
    'workers': (0, inf),
    'num_classes': (1, inf),
    'img_size': (1, inf),
    'batch_size': (1, inf),
    'validation_batch_size': (1, inf),
    'grad_accum_steps': (1, inf),
    'layer_decay': (0, 1),
    'clip_grad': (0, inf),
    'epochs': (1, inf),
    'decay_epochs': (1e-9, inf),
    'smoothing': (0, 0.999),
    'mixup': (0, 100),
    'cutmix': (0, 100),
    'mixup_prob': (0, 1),
    'mixup_switch_prob': (0, 1),
    'aug_repeats': (0, 100),
    'model_ema_decay': (0, 1),
    'log_interval': (1, inf),
    'checkpoint_hist': (1, inf),
    'seed': (0, 2**32 - 1),
}


@dataclass
class TrainConfig:
    """Arguments of `gkgnet_timm.training.run.train`, under the names of the flags of train_multilabel.py.

    `python train_multilabel.py --help` says what each of them does.

    Raises:
        ValueError: If a value is out of range or contradicts another. Names the flag.
    """

    # data
    dataset: str
    data_dir: Optional[str] = None
    class_map: Optional[str] = None
    num_classes: Optional[int] = None
    drop_unlabelled: bool = False
    input_key: Optional[str] = None
    target_key: Optional[str] = None
    target_format: Optional[str] = None
    workers: int = min(4, os.cpu_count() or 1)
    train_split: Optional[str] = None
    val_split: Optional[str] = None
    train_images: Optional[str] = None
    val_images: Optional[str] = None
    train_num_samples: Optional[int] = None
    val_num_samples: Optional[int] = None
    unknown_labels: Optional[str] = None  # 'positive' for voc, else 'ignore'

    # model
    model: str = 'gkgnet_224'
    pretrained: bool = False
    pretrained_path: Optional[str] = None
    init_labels_by_name: bool = False
    pos_embed_init: str = 'resample'
    img_size: Optional[int] = None
    drop: Optional[float] = None
    drop_path: Optional[float] = None
    model_kwargs: Dict[str, Any] = field(default_factory=dict)
    grad_checkpointing: bool = False
    torchcompile: Optional[str] = None
    sync_bn: bool = False
    dist_bn: str = 'reduce'

    # device
    on_bad_image: str = 'error'
    device: Optional[str] = None  # cuda if available, else cpu
    amp: bool = False
    amp_dtype: str = 'bfloat16'
    channels_last: bool = False

    # optimisation
    batch_size: int = 16
    validation_batch_size: Optional[int] = None  # batch_size
    grad_accum_steps: int = 1
    opt: str = 'adamw'
    opt_eps: Optional[float] = None
    opt_betas: Optional[List[float]] = None
    opt_kwargs: Dict[str, Any] = field(default_factory=dict)
    lr: float = 1e-4
    weight_decay: float = 0.05
    momentum: float = 0.9
    layer_decay: Optional[float] = None
    clip_grad: float = 5.0
    clip_mode: str = 'norm'
    max_bad_steps: int = 10

    # schedule
    epochs: int = 30
    sched: str = 'cosine'
    sched_on_updates: bool = True
    warmup_epochs: int = 1
    warmup_lr: float = 1e-7
    min_lr: float = 0.0
    decay_milestones: List[int] = field(default_factory=lambda: [10, 50])
    decay_epochs: Optional[float] = None
    decay_rate: float = 0.1
    cooldown_epochs: int = 0

    # loss
    loss: Optional[str] = None  # 'gkgnet' for the models gkgnet*, else 'bce'
    smoothing: float = 0.0
    loss_class_weight: Optional[str] = None
    loss_pos_weight: Optional[str] = None
    loss_weight_power: float = 1.0
    loss_weight_beta: float = 0.999
    loss_weight_max: Optional[float] = None
    class_stats: Optional[str] = None
    bce_sum: bool = False
    asl_gamma_pos: float = 1.0
    asl_gamma_neg: float = 4.0
    asl_clip: float = 0.05
    asl_reduction: str = 'batchmean'
    poly_epsilon: float = 2.0
    poly_gamma: float = 0.0
    poly_alpha: Optional[float] = None
    twoway_tp: float = 4.0
    twoway_tn: float = 1.0
    db_neg_scale: float = 2.0
    db_init_bias: float = 0.05
    db_focal_gamma: float = 2.0

    # augmentation
    no_aug: bool = False
    cropmix: float = 0.0
    train_crop_mode: Optional[str] = None
    scale: List[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: List[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    train_interpolation: str = 'random'
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.4
    aa: Optional[str] = None
    reprob: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = 'batch'
    mixup_off_epoch: int = 0
    oversample_thr: Optional[float] = None
    aug_repeats: float = 0

    # average of the weights
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    model_ema_warmup: bool = False
    model_ema_force_cpu: bool = False

    # output
    output: str = 'output/train'
    experiment: Optional[str] = None  # time, model, size
    eval_metric: str = 'mAP'
    log_interval: int = 50
    checkpoint_hist: int = 3
    seed: int = 42
    log_wandb: bool = False
    wandb_project: Optional[str] = None

    def __post_init__(self) -> None:
        self.unknown_labels = self.unknown_labels or ('positive' if self.dataset == 'voc' else 'ignore')
        self.loss = self.loss or ('gkgnet' if self.model.rpartition(':')[2].startswith('gkgnet') else 'bce')
        if self.validation_batch_size is None:
            self.validation_batch_size = self.batch_size
        check_ranges(self, RANGES)
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f'--scale and --ratio run from small to large, got {self.scale} and {self.ratio}.')
        for name in ('data_dir', 'class_map', 'class_stats', 'pretrained_path'):  # a resumed run may start elsewhere
            if getattr(self, name):
                setattr(self, name, os.path.abspath(getattr(self, name)))

    @property
    def evaluates_average(self) -> bool:
        """Whether the average of the weights is evaluated beside the weights themselves."""
        return self.model_ema and not self.model_ema_force_cpu

    def to_dict(self) -> Dict[str, Any]:
        """The fields by name, as `args.yaml` and checkpoints keep them."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
