"""Reader of the `.data` annotation files published with GKGNet."""

import pickle
import re
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np

from ...class_names import COCO_CLASSES
from ...runtime import one_line
from .base import LabelReader
from .names import ImageFolder

__all__ = ['PublishedReader', 'read_records']

_REMEDY = "Expected a pickle of dicts with 'file_name' and a multi-hot 'objects': download or write the file again."


class _Dtype:  # replaces numpy's
    def __init__(self, code: str, *copy: Any):
        self.code, self.byte_order = code, '='

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = state[1]

    def decode(self, data: Any) -> np.ndarray:
        name = self.byte_order + self.code
        if not re.fullmatch(r'[<>|=][biufU]\d+', name) or not data:
            raise pickle.UnpicklingError(f'{name!r} is not a plain array type')
        return np.frombuffer(data.encode('latin1') if isinstance(data, str) else data, dtype=name)  # Python 2 wrote str


class _Array(list):  # replaces numpy's, whose state can make it read outside its memory
    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        if dtype.code.startswith('O') and isinstance(data, list) and shape == (len(data),):
            self[:] = data
        else:
            self[:] = dtype.decode(data).reshape(shape, order='F' if is_fortran else 'C').tolist()


_GLOBALS = {
    'numpy.ndarray': None,  # only ever an argument
    'numpy.dtype': _Dtype,
    '_codecs.encode': lambda text, encoding: text.encode('latin1'),  # bytes in protocol 2
}

for _core in ('numpy.core', 'numpy._core'):  # before and from numpy 2
    _GLOBALS[f'{_core}.multiarray._reconstruct'] = lambda kind, shape, code: _Array()
    _GLOBALS[f'{_core}.multiarray.scalar'] = lambda dtype, data: dtype.decode(data)[0].item()
    _GLOBALS[f'{_core}.numeric._frombuffer'] = lambda data, dtype, shape, order: _Array(
        dtype.decode(data).reshape(shape, order=order).tolist()
    )


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in _GLOBALS:
            raise pickle.UnpicklingError(f'it asks for {module + "." + name!r}, which was not run')
        return _GLOBALS[f'{module}.{name}']


def _load(path: Union[str, Path]) -> Any:
    with open(path, 'rb') as file:
        try:
            return _Unpickler(file, encoding='latin1').load()
        except Exception as error:  # a damaged pickle raises nearly anything
            problem = f'{type(error).__name__}: {one_line(error)}'
            raise ValueError(f'{str(path)!r} is not a pickle of plain data ({problem}). {_REMEDY}') from error


def _find_problem(record: Any, columns: int, folder: ImageFolder) -> Optional[str]:
    # shows no values but text: nested ones can be endless
    if not isinstance(record, dict) or not {'file_name', 'objects'} <= record.keys():
        return "is not a dict with 'file_name' and 'objects'"
    name, row = record['file_name'], record['objects']
    if not isinstance(name, str):
        return f"has a 'file_name' of type {type(name).__name__}"
    try:
        folder.place(name)
    except ValueError as error:
        return f"cannot be used, its 'file_name' {str(error).rstrip('.')}"
    if not isinstance(row, (list, tuple)) or len(row) != (columns or len(row) or 1):
        return f"has 'objects' other than a sequence of {columns or 'some'} numbers"
    if row.count(0) + row.count(1) != len(row):
        column = next(i for i, value in enumerate(row, 1) if value not in (0, 1))
        return f"has a value other than 0 and 1 in 'objects', column {column}"
    return None


def read_records(path: Union[str, Path], images: Union[str, Path]) -> Tuple[List[str], np.ndarray]:
    """Read file names and int8 labels (N, L) from a published `.data` file, without running code in it.

    Args:
        path: `.data` file.
        images: Folder that the file names start from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds anything else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'Annotation file {str(path)!r} does not exist.')
    records = _load(path)
    if not isinstance(records, (list, tuple)) or not records:
        raise ValueError(f'{str(path)!r} does not hold a sequence of records. {_REMEDY}')
    folder = ImageFolder(images)
    files, rows = [], []
    for number, record in enumerate(records, 1):
        if problem := _find_problem(record, len(rows[0]) if rows else 0, folder):
            raise ValueError(f'{str(path)!r}: record {number} {problem}. {_REMEDY}')
        files.append(record['file_name'])
        rows.append(record['objects'])
    return files, np.array(rows, dtype=np.int8)


class PublishedReader(LabelReader):
    """Images and labels from a published `.data` file: a pickle of records with `file_name` and a multi-hot `objects`.

    No code in the file is run: it may hold numpy arrays, text, numbers, lists, tuples and dicts.

    Column order: the file has no class names; columns are assumed to be in ascending COCO category id. An older file of
    the same form has a different order. Training and metrics over all classes do not depend on the order, but a
    published checkpoint is scored wrongly if its labels have a different order. Compare with COCO's json first, by
    `python -m gkgnet_timm class-order`, and give `class_names` in column order if it differs.

    Args:
        annotations: `.data` file.
        images: Folder that the file names start from.
        class_names: Name of each column (default: the 80 of COCO).
        drop_unlabelled: Leave out images without labels.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file holds anything else.
    """

    def __init__(
        self,
        annotations: Union[str, Path],
        images: Union[str, Path],
        class_names: Optional[Sequence[str]] = None,
        drop_unlabelled: bool = False,
    ):
        if not Path(images).is_dir():
            raise FileNotFoundError(f'Image folder {str(images)!r} does not exist.')
        files, targets = read_records(annotations, images)
        if class_names is None and targets.shape[1] == len(COCO_CLASSES):
            class_names = COCO_CLASSES
        if len(class_names or ()) != targets.shape[1]:
            counts = f'{targets.shape[1]} columns, there are {len(class_names or ())} class names'
            raise ValueError(f'{str(annotations)!r} has {counts}. Name each column with --class-map FILE.')
        labelled = targets.any(axis=1) if drop_unlabelled else None
        super().__init__(images, files, targets, class_names, annotations, labelled)
