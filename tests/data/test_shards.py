"""Streams of shards: their names, their samples, and that nothing is listed."""

import io
import json
import os
import re
import tarfile
from itertools import count, islice

import pytest
import torch
from PIL import Image
from stores import ImageServer

import timm

from gkgnet_timm.data import remote
from gkgnet_timm.data.shards import Sample, Shard, batches_of, find_shards
from gkgnet_timm.inference.predictor import sample_outputs

IMAGE = io.BytesIO()
Image.new('RGB', (8, 8)).save(IMAGE, 'PNG')
IMAGE = IMAGE.getvalue()


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """Writes tars of named files, all with the same content, into the current folder."""
    pytest.importorskip('webdataset')
    monkeypatch.chdir(tmp_path)

    def write(path, *names):
        with tarfile.open(path, 'w') as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(IMAGE)
                tar.addfile(info, io.BytesIO(IMAGE))

    return write


def names(shards):
    return [sample.name for shard in shards for sample in shard.samples()]


def problems(shard):
    return [(sample.name, sample.error) for sample in shard.samples() if sample.error]


def test_tars_are_streams(tars, tmp_path):
    for i in range(3):
        tars(f'x-{i}.tar', f'a/{i}.jpg', f'a/{i}.json', f'b{i}.PNG')
    found = find_shards(['wds/x-{1..2}.tar', f'wds/{tmp_path}/x-0.tar', 'wds/x-1.tar'])
    assert [shard.name for shard in found] == ['x-1.tar', 'x-2.tar', f'{tmp_path}/x-0.tar']
    assert names(found[:2]) == ['x-1.tar/a/1.jpg', 'x-1.tar/b1.PNG', 'x-2.tar/a/2.jpg', 'x-2.tar/b2.PNG']
    assert all(sample.open().read() == IMAGE for sample in found[0].samples())
    assert found[0].has('x-1.tar/b') and found[0].has('x-1.tar') and not found[0].has('x-1.tar.png')
    for files in (['a.jpg'], ['wds/*.jpg'], ['wds'], ['wds/photos'], ['hfds/*.jpg', 'hfds/1.png', 'hfds/list.txt']):
        assert find_shards(files) is None


def test_streams_that_are_refused(tars):
    tars('x-0.tar', '0.jpg')
    os.mkdir('wds')
    tars('wds/x-0.tar', '0.jpg')
    tars('wds.tar', '0.jpg')
    for arguments, options, message in (
        (['wds/y-{0..1}.tar'], {}, "'wds/y-{0..1}.tar': there is no shard 'y-0.tar'"),
        (['wds/wds.tar', 'a.jpg'], {}, "'a.jpg' is not a stream, 'wds/wds.tar' is"),
        (['wds/x-0.tar'], {}, "'wds/x-0.tar' is both the name of a stream and a path: give ./wds/x-0.tar"),
        (['a.jpg'], dict(split='val'), "--split 'val': only hfds/"),
        (['wds/wds.tar'], dict(split='val'), "--split 'val': only hfds/"),
        (['a.jpg'], dict(input_key='jpg'), "--input-key 'jpg': only wds/ or hfds/"),
        (['wds/https://u:SECRET@h/x.zip?SECRET'], {}, "'wds/https://h/x.zip' does not end in .tar"),
        (['wds/https://u:SECRET@h/x.tar?SECRET', 'a'], {}, "'a' is not a stream, 'wds/https://h/x.tar' is"),
        (['wds/https://h/x.tar?id=1', 'wds/https://h/x.tar?id=2'], {}, "'https://h/x.tar' is the name of several"),
        (['wds/nothing://SECRET:SECRET@h/x.tar'], {}, 'nothing:// is no kind of store'),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as error:
            find_shards(arguments, **options)
        assert 'SECRET' not in str(error.value)


def test_samples_without_one_image_have_an_error(tars):
    tars('x.tar', '0.jpg', '0.mask.png', '1.json', '1.txt', '2.jpeg')
    (shard,) = find_shards(['wds/x.tar'])
    assert names([shard]) == ['x.tar/0', 'x.tar/1', 'x.tar/2.jpeg']
    assert problems(shard) == [
        ('x.tar/0', 'it has several images, jpg, mask.png: give --input-key jpg'),
        ('x.tar/1', 'it has no image, but json, txt'),
    ]
    (shard,) = find_shards(['wds/x.tar'], input_key='mask.png')
    assert names([shard]) == ['x.tar/0.mask.png', 'x.tar/1', 'x.tar/2']
    with pytest.raises(ValueError, match='it has no image, but jpeg'):
        list(shard.samples())[2].open()


def test_damaged_shards_are_reported_and_the_rest_is_read(tars):
    tars('x-0.tar')
    tars('x-1.tar', *(f'{i}.png' for i in range(9)))
    content = open('x-1.tar', 'rb').read()
    open('x-2.tar', 'wb').write(content[: 3 * 1024 + 700])
    open('x-3.tar', 'wb').write(b'no tar' * 200)
    tars('x-4.tar', '0.png', '0.png')
    shards = find_shards(['wds/x-{0..4}.tar'])
    os.unlink('x-1.tar')  # in the meantime
    assert [problems(shard)[-1] for shard in shards] == [
        ('x-0.tar', 'it has no samples'),
        ('x-1.tar', "only its first 0 samples can be read: [Errno 2] No such file or directory: 'x-1.tar'"),
        ('x-2.tar', 'only its first 3 samples can be read: unexpected end of data'),
        ('x-3.tar', 'only its first 0 samples can be read: invalid header'),
        ('x-4.tar', "only its first 0 samples can be read: 0.png: duplicate file name in tar file png "
         "dict_keys(['__key__', '__url__', 'png'])"),
    ]  # fmt: skip


def test_shards_at_urls(tars, tmp_path, monkeypatch):
    """They are those of the disk, also where connections break, and nothing shows credentials."""
    pytest.importorskip('aiohttp')
    monkeypatch.setattr(remote, 'WAITS', (0.01, 0.02))
    tars('x-0.tar', *(f'{i}.png' for i in range(9)))
    tars('x-1.tar', '0.jpg')
    expected = [(sample.name, sample.content) for shard in find_shards(['wds/x-{0..1}.tar']) for sample in shard.read()]
    with ImageServer(tmp_path) as server:
        user = server.url.replace('//', '//u:SECRET@')
        for way in ('', '/broken/2', '/short/1'):
            shards = find_shards([f'wds/{user}{way}/x-{{0..1}}.tar?sig=SECRET'])
            found = [(sample.name, sample.content) for shard in shards for sample in shard.samples()]
            assert found == [(f'{server.url}{way}/{name}', content) for name, content in expected]
        for way, reason in (('status/403', '403 Forbidden'), ('status/404', 'there is no such file')):
            (shard,) = find_shards([f'wds/{user}/{way}/x-0.tar?sig=SECRET'])
            error = f'only its first 0 samples can be read: {reason}'
            assert problems(shard) == [(f'{server.url}/{way}/x-0.tar', error)]


def test_sets_of_the_hub(tmp_path):
    """A folder of parquet files, of which each is a shard."""
    pytest.importorskip('datasets')
    pyarrow, parquet = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    features = {'image': {'_type': 'Image'}, 'other': {'_type': 'Image'}}
    for split in ('test', 'train'):
        for i in range(2):
            rows = [{'bytes': IMAGE, 'path': 'x.png'} for _ in range(2 + i)]
            table = pyarrow.table({'image': rows, 'other': rows})
            table = table.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': features}})})
            parquet.write_table(table, tmp_path / f'{split}-0000{i}-of-00002.parquet')
    name = f'hfds/{tmp_path}'
    found = find_shards([name], 'test', 'image')
    assert names(found) == [f'{name}/test/shard-{i}/{row}' for i in range(2) for row in range(2 + i)]
    assert next(found[1].samples()).open().read() == IMAGE and not any(map(problems, found))
    for options, message in (
        (dict(), 'has splits .*: give one by --split, not None'),
        (dict(split='val'), "not 'val'"),
        (dict(split='train'), 'has images in image, other: give one by --input-key'),
        (dict(split='train', input_key='label'), 'label'),
    ):
        with pytest.raises(ValueError, match=message):
            find_shards([name], **options)
    with pytest.raises(FileNotFoundError, match='nope'):
        find_shards([f'{name}/nope'])


@pytest.mark.parametrize('workers', [0, 2])
def test_a_stream_without_end_is_read_as_it_is_labelled(workers):
    """No more than some batches for each worker are ahead of the rows, and batches end with a shard."""
    read = []

    def endless():
        for i in count():
            read.append(i)
            yield Sample(f'endless/{i}', IMAGE if i % 7 else b'no image')

    three = Shard('three', lambda: (Sample(f'three/{i}', IMAGE) for i in range(3)))
    batches = batches_of([three, Shard('endless', endless)], 4)
    sizes = []
    batches = (sizes.append(len(batch)) or batch for batch in batches)
    model = timm.create_model('test_resnet', num_classes=3, pretrained_cfg_overlay=dict(input_size=(3, 32, 32)))
    rows = []
    for name, logits, error in islice(sample_outputs(model, batches, workers=workers, device='cpu'), 99):
        rows.append(name)
        assert bool(error) == (name.startswith('endless') and int(name.rpartition('/')[2]) % 7 == 0)
        assert logits.shape == (3,) and torch.from_numpy(logits).isfinite().all()
        assert len(read) <= len(rows) + 4 * (2 * workers + 3)
    assert rows == [f'three/{i}' for i in range(3)] + [f'endless/{i}' for i in range(96)]
    assert sizes[:3] == [3, 4, 4]
