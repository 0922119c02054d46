"""What a json in COCO format lists, before it becomes images and labels."""

from pathlib import Path
from typing import Any, Dict, List, Union
from urllib.parse import unquote, urlsplit

from ..runtime import quoted, read_json

__all__ = ['Record', 'file_names_of', 'list_images', 'read_coco', 'records_of']

Record = Dict[str, Any]
_LARGEST = 1 << 33  # bytes; the largest public files have 6 GB


def read_coco(path: Union[str, Path]) -> Any:
    """Read the content of a json, see `read_json`."""
    return read_json(path, _LARGEST, 'a COCO annotation file')


def records_of(content: Any, key: str) -> List[Record]:
    """A list of objects in the content of a json.

    Raises:
        ValueError: If there is something else.
    """
    if not isinstance(content, dict):
        expected = "an object with 'images', 'annotations' and 'categories'"
        raise ValueError(f'it holds {type(content).__name__}, expected {expected}')
    records = content.get(key)
    if not isinstance(records, list):
        raise ValueError(f'its {key!r} are {quoted(records)}, expected a list')
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ValueError(f'number {number} of its {key!r} is {quoted(record)}, expected an object')
    return records


def _file_name_of(image: Record, number: int) -> str:
    name = image.get('file_name')
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is None or name == '':
        link, path = image.get('coco_url'), image.get('path')
        if isinstance(link, str) and link:
            path = unquote(urlsplit(link).path)
        name = path.replace('\\', '/').rpartition('/')[2] if isinstance(path, str) else None
    if not isinstance(name, str) or not name:
        shown = ', '.join(f'{key} {quoted(image.get(key))}' for key in ('file_name', 'coco_url', 'path'))
        raise ValueError(f'image number {number} has no file name: {shown}')
    return name


def file_names_of(images: List[Record]) -> List[str]:
    """File names of images: `file_name`, else the last part of `coco_url` or `path`.

    Raises:
        ValueError: If an image has none.
    """
    return [_file_name_of(image, number) for number, image in enumerate(images, 1)]


def list_images(path: Union[str, Path]) -> List[str]:
    """List the file names in a json, which needs no annotations.

    Raises:
        ValueError: If it is not in COCO format.
    """
    content = read_coco(path)
    try:
        return file_names_of(records_of(content, 'images'))
    except ValueError as error:
        raise ValueError(f'COCO file {str(path)!r}: {error}.') from error
