"""Data sets by name."""

from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
import torch.utils.data
from PIL import Image

import timm.data
from timm.data import ImageDataset, IterableImageDataset, MultiLabelTarget

from ..class_names import check_names, read_class_map
from ..runtime import is_url, locate
from .decode import Decoder
from .demo import demo_root
from .images import BadImageError
from .readers.base import LabelReader
from .readers.coco import CocoReader
from .readers.gkgnet import PublishedReader
from .readers.table import TABLE_OPTIONS, CsvReader
from .readers.voc import VocReader

__all__ = ['KnownTarget', 'MultiLabelDataset', 'check_dataset_name', 'create_dataset', 'form_of']

DATASETS = ('demo', 'coco', 'voc', 'gkgnet', 'csv')
TIMM_DATASETS = ('hfds/', 'hfids/', 'wds/', 'tfds/')
_OF_TIMM = ', '.join(f'{kind}...' for kind in TIMM_DATASETS)
_FORMS = {'.csv': 'csv', '.tsv': 'csv', '.json': 'coco', '.data': 'gkgnet'}
_UNKNOWN = dict(ignore=-1, positive=1, negative=0)
_TABLE = (*TABLE_OPTIONS, 'where', 'meaning')


class KnownTarget:
    """Turn int8 labels (L,) into a float target. Unknown labels (-1) stay -1 ('ignore') or become 1 or 0."""

    def __init__(self, unknown: str = 'ignore'):
        if unknown not in _UNKNOWN:
            raise ValueError(f'Unknown labels can be {", ".join(_UNKNOWN)}, not {unknown!r}.')
        self.value: int = _UNKNOWN[unknown]

    def __call__(self, labels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.known(labels)).float()

    def known(self, labels: np.ndarray) -> np.ndarray:
        """Replace unknown labels."""
        # a large matrix is not copied for nothing
        if self.value < 0 or labels.min(initial=0) == 0:
            return labels
        return np.where(labels < 0, self.value, labels)


class MultiLabelDataset(ImageDataset):
    """Data set of upright images with targets (L,). An image that cannot be read raises an error that names it.

    timm's own data set returns the next image instead, which falsifies an evaluation.

    Args:
        reader: timm reader of files and labels.
        target_transform: Turns the labels of the reader into a float tensor (L,).
        bad_images: File to which the path of an unreadable image is appended in place of the error. The image is then
            black and its target nan, so that loaders and evaluators drop it.
        decoder: Reads the image files.

    Attributes:
        class_names: L names.
        split: Name or file of the split, set by `open_split`.
        images: Folder of the images, set by `open_split`; None if the split implies it.
    """

    split: str
    images: Optional[str]

    def __init__(
        self,
        reader: Any,
        target_transform: Callable,
        bad_images: Optional[Union[str, Path]] = None,
        decoder: Optional[Decoder] = None,
    ):
        super().__init__('', reader=reader, target_transform=target_transform)
        self.bad_images = bad_images
        self.decoder: Decoder = decoder or Decoder()
        self.class_names: List[str] = list(reader.class_to_idx or ())

    def __getitem__(self, index: int) -> Tuple[Any, torch.Tensor]:
        labels = None

        def open_file() -> BinaryIO:
            nonlocal labels
            file, labels = self.reader[index]
            return file

        image, reason = self.decoder.read(open_file, self.transform)
        if not reason:
            return image, self.target_transform(labels)
        path = self.filename(index, absolute=True)
        if self.bad_images is None:
            raise BadImageError(f'Cannot read image {path!r}: {reason}')
        with open(self.bad_images, 'a', encoding='utf-8', errors='surrogateescape') as file:
            file.write(f'{path}\n')
        return image, torch.full((len(self.class_names),), torch.nan)

    def read_image(self, index: int) -> Optional[Image.Image]:
        """Return an upright image as it is in its file, None if it cannot be read."""
        image, problem = self.decoder.read(lambda: self.reader[index][0])
        return None if problem else image

    def targets(self) -> np.ndarray:
        """Return the targets (N, L) that training sees, without reading an image."""
        if isinstance(self.reader, LabelReader):
            return self.target_transform.known(self.reader.targets)
        return np.stack([self.target_transform(labels).numpy() for labels in self.reader.iter_targets()])


class _ClassMap(dict):
    """Index of a class by its name. A label that is an index already stays, as in data sets without class names."""

    def __missing__(self, label: Any) -> int:
        if isinstance(label, Integral) and 0 <= label < len(self):
            return int(label)
        raise ValueError(f'Label {label!r} is not one of the {len(self)} classes of the class map.')


def _find(root: Path, name: str, kind: str) -> Path:
    """Find a file or folder by its path from the data folder or the current one."""
    found = locate(name, str(root))
    if found is None:
        raise FileNotFoundError(f'{kind} {str(root / name)!r} does not exist. Check it, or give another --data-dir.')
    return Path(found)


def check_dataset_name(name: str) -> None:
    """Raise a ValueError unless there is such a data set."""
    if name not in DATASETS and not name.startswith(TIMM_DATASETS):
        raise ValueError(f'Unknown --dataset {name!r}, expected {", ".join(DATASETS)}, or {_OF_TIMM} of timm.')


def form_of(split: Optional[str]) -> Optional[str]:
    """Name of the data set whose reader takes a file of labels, by its suffix, None if that does not tell."""
    return _FORMS.get(Path(split or '').suffix.lower())


def _create_reader(
    name: str,
    root: Path,
    split: str,
    images: Optional[str],
    class_names: Optional[List[str]],
    drop_unlabelled: bool,
    table_options: Dict[str, Any],
) -> LabelReader:
    form = form_of(split)
    if form not in (None, name) and (name, form) not in (('csv', 'gkgnet'), ('demo', 'coco')):  # a table may be .data
        raise ValueError(f'Split {split!r} is a file for --dataset {form}, not {name}: give that, or another split.')
    if name == 'voc':
        return VocReader(root, split, class_names, drop_unlabelled)
    if name in ('coco', 'demo') and not split.endswith('.json'):
        annotations, folder = root / 'annotations' / f'instances_{split}.json', root / split
    else:
        annotations, folder = _find(root, split, 'Annotation file'), root
    if images:
        folder = _find(root, images, 'Image folder')
    if name in ('coco', 'demo'):
        return CocoReader(annotations, folder, drop_unlabelled)
    if name == 'gkgnet':
        return PublishedReader(annotations, folder, class_names, drop_unlabelled)
    reader = CsvReader(annotations, folder, class_names, drop_unlabelled=drop_unlabelled, **table_options)
    if reader.meaning.unlisted == 'unknown':  # so is a class that no row has
        reader.unlisted = -1
    return reader


def _check_options(name: str, options: Dict[str, Any]) -> None:
    """Raise a ValueError for options that a data set has no use for."""
    is_stream = name.startswith(('hfids/', 'wds/', 'tfds/'))
    uses = dict(
        images=name in ('coco', 'csv', 'demo', 'gkgnet'),
        drop_unlabelled=name in DATASETS,
        unknown_labels=name in DATASETS,
        num_samples=is_stream,
        **dict.fromkeys(_TABLE, name == 'csv'),
        **dict.fromkeys(('num_classes', 'target_format', 'input_key', 'target_key'), name not in DATASETS),
    )
    for option, is_used in uses.items():
        value = options.get(option)
        if not is_used and value not in (None, False):
            flag = f'--{option.replace("_", "-")}'
            if option in ('images', 'num_samples', 'where'):
                flag += f' (in training --train-{flag[2:]}, --val-{flag[2:]})'
            raise ValueError(f'{flag}: not used by --dataset {name}, got {value!r}. Leave it out.')


def create_dataset(
    name: str,
    root: Union[str, Path, None],
    split: str,
    images: Optional[str] = None,
    class_map: Optional[str] = None,
    class_names: Optional[List[str]] = None,
    unknown: Optional[str] = None,
    drop_unlabelled: bool = False,
    drop_empty_classes: bool = False,
    bad_images: Optional[Union[str, Path]] = None,
    num_classes: Optional[int] = None,
    target_format: Optional[str] = None,
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
    **options: Any,
) -> Union[MultiLabelDataset, Any]:
    """Create one split of a data set. Its attribute `class_names` names the classes.

    Args:
        name: 'demo' (drawn on first use), 'coco', 'voc', 'gkgnet' (the published annotation files), 'csv', or a data
            set of timm: 'hfds/...', 'hfids/...', 'wds/...', 'tfds/...'.
        root: Folder of the data set; 'demo' does not use it.
        split: 'demo': train or val. 'coco': NAME for `annotations/instances_{NAME}.json` and images in `{NAME}/`, or
            the path of a json. 'voc': year and list, such as 2007/trainval, several joined by '+'. 'gkgnet' and 'csv':
            path of the annotation file. Paths start from `root` or the current folder.
        images: Folder of the images, unless the split determines it (default: `root`).
        class_map: Text file with one class name a line: names for annotations without them, else the order to have.
        class_names: Classes in the order to have, those of the training split. Annotations that name their classes are
            matched by name: another order or a subset will do.
        unknown: How to treat unknown labels (-1), in VOC those of difficult objects only: 'ignore' (default),
            'positive' or 'negative'. If given, -1 and empty cells of a table are unknown whatever else it has.
        drop_unlabelled: Leave out images without a label.
        drop_empty_classes: Leave out classes that no image has; of those in `class_names` all are kept.
        bad_images: See `MultiLabelDataset`.
        num_classes: Number of classes of a timm data set without class names.
        target_format: 'indices' or 'multihot', for data sets of timm.
        bit_depth: See `Decoder`, as background and max_pixels.
        options: Further arguments of `CsvReader`, for 'csv', and of `timm.data.create_dataset`, for data sets of timm.

    Raises:
        FileNotFoundError: If an annotation file or image folder does not exist.
        ValueError: If the name is unknown, annotations are malformed, or the classes differ from `class_names`.
    """
    check_dataset_name(name)
    decoder = Decoder(bit_depth, background, max_pixels)
    table_options = {key: options.pop(key) for key in _TABLE if key in options}
    if name in DATASETS and any(is_url(str(place)) for place in (root, split, images)):
        raise ValueError(
            f'--dataset {name} is read from local folders, its folder, split and images cannot be URLs: copy them '
            'first, or give --dataset wds/... or hfds/..., which timm streams.'
        )
    uses = dict(options, **table_options, images=images, drop_unlabelled=drop_unlabelled, num_classes=num_classes)
    uses.update(target_format=target_format, unknown_labels=None if unknown == 'ignore' else unknown)
    _check_options(name, uses)
    if name.startswith(TIMM_DATASETS):
        if drop_empty_classes:
            raise ValueError(
                f'--drop-empty-classes does not apply to {name!r}, as data sets of timm have no class counts.'
            )
        names = read_class_map(class_map) if class_map else []
        by_name = None if target_format == 'multihot' else _ClassMap((label, i) for i, label in enumerate(names))
        dataset = timm.data.create_dataset(
            name, root=root, split=split, class_map=by_name, target_format=target_format, **options
        )
        class_to_idx = dataset.reader.class_to_idx or {}
        names = names or sorted(class_to_idx, key=class_to_idx.get)
        if not names and not num_classes:
            raise ValueError(f'Data set {name!r} does not say how many classes it has. Give --num-classes N.')
        if names and num_classes not in (None, len(names)):
            raise ValueError(f'--num-classes {num_classes}: {name!r} names {len(names)} classes. Leave it out.')
        names = [str(label) for label in names] or [f'class {i}' for i in range(num_classes)]
        dataset.target_transform = MultiLabelTarget(len(names), dense=target_format == 'multihot')
        if isinstance(dataset, IterableImageDataset):
            if bad_images is not None:
                raise ValueError(
                    f'--on-bad-image skip does not apply to the stream {name!r}: timm skips its bad images.'
                )
            dataset.decoder = decoder
        else:
            dataset = MultiLabelDataset(dataset.reader, dataset.target_transform, bad_images, decoder)
        dataset.class_names = check_names(names, name)
        if class_names is not None and names != list(class_names):
            other = next((b for a, b in zip(class_names, names) if a != b), None)
            raise ValueError(
                f'Split {split!r} has {len(names)} classes, expected {len(class_names)}'
                + (f'; the first that differs is {other!r}.' if other else '.')
            )
    else:
        # annotations of a training that dropped classes list them still
        names = None if drop_empty_classes else class_names
        if names is None and class_map:
            names = read_class_map(class_map)
        if name == 'csv' and names is None and class_names is not None:  # a cell with x may be of a class of this name
            names, table_options['drop_empty'] = class_names, True
        folder = demo_root() if name == 'demo' else Path(root)
        if name == 'csv':
            if unknown is None and table_options.get('meaning'):
                unknown = table_options['meaning'].unknown
            table_options['unknown'] = unknown
        reader = _create_reader(name, folder, split, images, names, drop_unlabelled, table_options)
        target_transform = KnownTarget(unknown or 'ignore')
        if names is not None and names is not class_names:
            reader.take_classes(names, drop_empty_classes)
        if class_names is None and drop_empty_classes:
            found = (target_transform.known(reader.targets) > 0).any(axis=0)
            class_names = [label for label, kept in zip(reader.class_names, found) if kept]
        if class_names is not None:
            reader.take_classes(class_names, drop_empty_classes, bool(table_options.get('ignore_case')))
        dataset = MultiLabelDataset(reader, target_transform, bad_images, decoder)
    return dataset
