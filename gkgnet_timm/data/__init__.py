from .coco import CocoReader
from .dataset import MultiLabelDataset, create_dataset, label_frequency
from .demo import demo_root
from .voc import VocReader

__all__ = ['CocoReader', 'MultiLabelDataset', 'VocReader', 'create_dataset', 'demo_root', 'label_frequency']
