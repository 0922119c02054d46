"""Images in shards, read one after the other: tars of webdataset, and data sets of the Hugging Face Hub.

timm's readers of the same names want labels, leave out bad images without a word, and drop the names.
"""

import io
import os
import re
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import fsspec
from PIL import Image
from torch.utils.data import Dataset

from ..runtime import blame, is_url, one_line
from .address import Address, ambiguous, divide_url, named
from .decode import Decoder
from .images import EXTENSIONS, drop_duplicates
from .stream import open_stream

__all__ = ['Sample', 'SampleImages', 'Shard', 'batches_of', 'find_shards']

_TAR = re.compile(r'\.(tar|tgz|tar\.\w+)$')
_NO_NAME = re.compile(rf'[*?\[]|({"|".join(map(re.escape, (*EXTENSIONS, ".txt", ".json")))})$', re.IGNORECASE)


class Sample(NamedTuple):
    """An image of a shard: its name, which begins with that of the shard, and its file, or why there is none."""

    name: str
    content: bytes = b''
    error: str = ''

    def open(self) -> BinaryIO:
        if self.error:
            raise ValueError(self.error)
        return io.BytesIO(self.content)


class Shard(NamedTuple):
    """Samples that are read in order."""

    name: str
    read: Callable[[], Iterator[Sample]]

    def samples(self) -> Iterator[Sample]:
        """Yield all samples, at least one. What ends the shard too early, or all of it, is one with an error."""
        count = 0
        try:
            for count, sample in enumerate(self.read(), 1):  # noqa: B007
                yield sample
        except MemoryError:
            raise
        except Exception as error:  # damaged shards and lost connections make libraries raise anything
            yield Sample(self.name, error=f'only its first {count} samples can be read: {one_line(error)}')
        else:
            if not count:
                yield Sample(self.name, error='it has no samples')

    def has(self, name: str) -> bool:
        """Whether a sample of this name is one of this shard."""
        return name == self.name or name.startswith(f'{self.name}/')


class SampleImages(Dataset[Tuple[Any, str]]):
    """Images by their samples, each with the reason why it cannot be read, or '', see `ImageFiles`."""

    def __init__(self, transform: Callable[[Image.Image], Any], decoder: Decoder):
        self.transform = transform
        self.decoder = decoder

    def __getitem__(self, sample: Sample) -> Tuple[Any, str]:
        return self.decoder.read(sample.open, self.transform)


def batches_of(shards: Sequence[Shard], batch_size: int) -> Iterator[List[Sample]]:
    """Yield batches of samples, each of one shard: they do not depend on who reads which shards."""
    for shard in shards:
        samples = shard.samples()
        while batch := list(islice(samples, batch_size)):
            yield batch


def find_shards(
    arguments: Sequence[str], split: Optional[str] = None, input_key: Optional[str] = None
) -> Optional[List[Shard]]:
    """Find the shards that arguments stand for, each once, in their order; None if the arguments are of files.

    Args:
        arguments: `wds/` before paths of tars, in which `{000..009}` stands for numbers, or `hfds/` before the name of
            a data set or its folder.
        split: Split of a data set of `hfds/`, which may be left out if there is one only.
        input_key: Which file of a sample is the image, `jpg`, or which column (default: the only one).

    Raises:
        FileNotFoundError: If a shard or data set does not exist.
        ValueError: If there are both shards and files, a name may mean either, or a library is missing.
    """
    tars = [argument for argument in arguments if argument.startswith('wds/') and _TAR.search(_shown(argument))]
    sets = [argument for argument in arguments if argument.startswith('hfds/') and not _NO_NAME.search(argument)]
    for argument in arguments:
        if argument.startswith('wds/') and is_url(argument.removeprefix('wds/')) and argument not in tars:
            raise ValueError(f'{_shown(argument)!r} does not end in .tar or .tar.gz, as the URL of a shard does.')
    if both := next((argument for argument in [*tars, *sets] if os.path.exists(argument)), None):
        raise ValueError(f'{both!r} is both the name of a stream and a path: give ./{both} to read the path.')
    for flag, value, used in (('--split', split, sets), ('--input-key', input_key, [*tars, *sets])):
        if value and not used:
            raise ValueError(f'{flag} {value!r}: only {"hfds/" if used is sets else "wds/ or hfds/"} has use for it.')
    if not tars and not sets:
        return None
    if other := next((argument for argument in arguments if argument not in tars and argument not in sets), None):
        stream = _shown([*tars, *sets][0])
        raise ValueError(f'{_shown(other)!r} is not a stream, {stream!r} is: give only one kind.')
    found = []
    for argument in arguments:
        found += _tars(argument, input_key) if argument in tars else _parts_of_set(argument, split, input_key)
    if name := ambiguous(shard.name for shard in found):
        raise ValueError(
            f'{name!r} is the name of several shards, as what differs is left out: it may be a credential. '
            'Download them first.'
        )
    by_name = {shard.name: shard for shard in found}
    return [by_name[name] for name in drop_duplicates(by_name)]


def _shown(argument: str) -> str:
    """An argument without what may be a credential."""
    kind = 'wds/' if argument.startswith('wds/') else ''
    return f'{kind}{divide_url(argument.removeprefix(kind))[0]}'


def _needed(library: str, argument: str) -> str:
    return f"{argument!r} needs {library}: pip install 'gkgnet-timm[shards]'."


def _open(path: str) -> BinaryIO:
    if '://' not in path:
        return open(path, 'rb')
    return fsspec.open(path, 'rb').open()


def _tars(argument: str, input_key: Optional[str]) -> List[Shard]:
    try:
        from webdataset.shardlists import expand_urls
    except ImportError:
        raise ValueError(_needed('webdataset', _shown(argument))) from None
    with blame(repr(_shown(argument))):
        paths = expand_urls(argument.removeprefix('wds/'))
    paths = [*map(named, paths)]
    if missing := next((path for path in paths if not isinstance(path, Address) and not os.path.isfile(path)), None):
        raise FileNotFoundError(f'{argument!r}: there is no shard {missing!r}.')
    return [Shard(path, lambda path=path: _read_tar(path, input_key)) for path in paths]


def _read_tar(path: str, input_key: Optional[str]) -> Iterator[Sample]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with open_stream(path) as file, _plainly():
        for sample in group_by_keys(tar_file_expander([dict(url=path, stream=file)]), lcase=False):
            suffixes = [name for name in sample if not name.startswith('__')]
            name = f'{path}/{sample["__key__"]}'
            images = [suffix for suffix in suffixes if _is_image(suffix, input_key)]
            if len(images) == 1:
                yield Sample(f'{name}.{images[0]}', sample[images[0]])
            elif images:
                yield Sample(name, error=f'it has several images, {", ".join(images)}: give --input-key {images[0]}')
            else:
                yield Sample(name, error=f'it has no image, but {", ".join(suffixes)}')


@contextmanager
def _plainly() -> Iterator[None]:
    """Take out of errors the objects that webdataset puts into them."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # also those of compression
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
        raise ValueError(reason.partition(' @ ')[0]) from error


def _is_image(suffix: str, input_key: Optional[str]) -> bool:
    return suffix == input_key if input_key else f'.{suffix.lower().rpartition(".")[2]}' in EXTENSIONS


def _parts_of_set(argument: str, split: Optional[str], input_key: Optional[str]) -> List[Shard]:
    try:
        import datasets
    except ImportError:
        raise ValueError(_needed('datasets', argument)) from None
    name = argument.removeprefix('hfds/')
    with blame(repr(argument)):
        splits = datasets.get_dataset_split_names(name)
    if split not in (splits if len(splits) > 1 else [*splits, None]):
        raise ValueError(f'{argument!r} has splits {", ".join(splits)}: give one by --split, not {split!r}.')
    split = split or splits[0]
    with blame(repr(argument)):
        rows = datasets.load_dataset(name, split=split, streaming=True)
    columns = [key for key, feature in (rows.features or {}).items() if isinstance(feature, datasets.Image)]
    if not input_key and len(columns) != 1:
        found = f'images in {", ".join(columns)}' if columns else 'no column that is said to be of images'
        raise ValueError(f'{argument!r} has {found}: give one by --input-key.')
    column = input_key or columns[0]
    with blame(repr(argument)):
        rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    count = rows.num_shards
    names = [f'{argument}/{split}/shard-{i}' for i in range(count)]
    return [
        Shard(name, lambda i=i, name=name: _read_rows(name, rows.shard(num_shards=count, index=i), column))
        for i, name in enumerate(names)
    ]


def _read_rows(name: str, rows: Any, column: str) -> Iterator[Sample]:
    for number, row in enumerate(rows):
        image = row[column]
        if image is None:
            yield Sample(f'{name}/{number}', error='it has no image')
            continue
        content = image['bytes']
        if content is None:
            with _open(image['path']) as file:
                content = file.read()
        yield Sample(f'{name}/{number}', content)
