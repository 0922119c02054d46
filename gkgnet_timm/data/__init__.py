from .dataset import MultiLabelDataset, create_dataset
from .decode import Decoder
from .demo import demo_root
from .images import BadImageError, find_images
from .loader import create_eval_loader, create_train_loader, start_epoch
from .readers.base import LabelReader
from .readers.coco import CocoReader
from .readers.gkgnet import PublishedReader
from .readers.table import CsvReader
from .readers.voc import VocReader
from .splits import open_split
from .transforms import create_train_transform

__all__ = [
    'BadImageError',
    'CocoReader',
    'CsvReader',
    'Decoder',
    'LabelReader',
    'MultiLabelDataset',
    'PublishedReader',
    'VocReader',
    'create_dataset',
    'create_eval_loader',
    'create_train_loader',
    'create_train_transform',
    'demo_root',
    'find_images',
    'open_split',
    'start_epoch',
]
