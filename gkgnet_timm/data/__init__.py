from .coco import CocoReader
from .dataset import BadImageError, MultiLabelDataset, create_dataset
from .demo import demo_root
from .loader import create_eval_loader, create_train_loader, start_epoch
from .published import PublishedReader
from .table import CsvReader
from .transforms import create_train_transform
from .voc import VocReader

__all__ = [
    'BadImageError',
    'CocoReader',
    'CsvReader',
    'MultiLabelDataset',
    'PublishedReader',
    'VocReader',
    'create_dataset',
    'create_eval_loader',
    'create_train_loader',
    'create_train_transform',
    'demo_root',
    'start_epoch',
]
