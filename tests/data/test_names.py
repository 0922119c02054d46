"""File names in annotations: one rule for all readers."""

import json
import os
import pickle
import re
import unicodedata

import pytest

from gkgnet_timm.class_names import VOC_CLASSES
from gkgnet_timm.data import CocoReader, CsvReader, PublishedReader, VocReader, open_split
from gkgnet_timm.data.readers import names
from gkgnet_timm.data.readers.names import ImageFolder


def read_csv(folder, images, names):
    path = folder / 'table.csv'
    path.write_text('file,labels\n' + ''.join(f'"{name}",{"cat" if i else "dog"}\n' for i, name in enumerate(names)))
    return CsvReader(path, images)


def read_coco(folder, images, names):
    path = folder / 'table.json'
    listed = [dict(id=i, file_name=name) for i, name in enumerate(names)]
    annotations = [dict(image_id=i, category_id=2 if i else 3) for i in range(len(names))]
    categories = [dict(id=2, name='cat'), dict(id=3, name='dog')]
    path.write_text(json.dumps(dict(images=listed, annotations=annotations, categories=categories)))
    return CocoReader(path, images)


def read_published(folder, images, names):
    path = folder / 'table.data'
    path.write_bytes(pickle.dumps([dict(file_name=name, objects=[i > 0, i == 0]) for i, name in enumerate(names)]))
    return PublishedReader(path, images, ['cat', 'dog'])


READERS = [read_csv, read_coco, read_published]
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, 'Übung é') for form in ('NFC', 'NFD'))
every_reader = pytest.mark.parametrize('read', READERS, ids=lambda read: read.__name__)


@pytest.fixture
def images(tmp_path):
    names = ['a.jpg', 'sub/000.jpg', 'sub/deep/1.PNG', f'{COMPOSED}.jpg', f'{DECOMPOSED} 2.jpg', f'{DECOMPOSED}/b.jpg']
    for name in [*names, 'two.jpg', 'two.png', 'notes.txt', 'v1.5.webp', 'back\\slash.jpg']:
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'images' / name).touch()
    return tmp_path / 'images'


@every_reader
@pytest.mark.parametrize(
    'name, file',
    [
        ('a.jpg', 'a.jpg'),
        ('./a.jpg', 'a.jpg'),
        ('.//sub/../a.jpg', 'a.jpg'),
        ('../images/a.jpg', 'a.jpg'),
        ('{images}/a.jpg', 'a.jpg'),
        ('{images}/sub/000.jpg', 'sub/000.jpg'),
        ('sub\\000.jpg', 'sub/000.jpg'),
        ('.\\sub\\deep\\1.PNG', 'sub/deep/1.PNG'),
        ('back\\slash.jpg', 'back\\slash.jpg'),
        (f'{DECOMPOSED}.jpg', f'{COMPOSED}.jpg'),
        (f'{COMPOSED} 2.jpg', f'{DECOMPOSED} 2.jpg'),
        (f'{COMPOSED}\\b.jpg', f'{DECOMPOSED}/b.jpg'),
        ('sub/000', 'sub/000.jpg'),
        ('sub\\deep\\1', 'sub/deep/1.PNG'),
        ('v1.5', 'v1.5.webp'),
        (DECOMPOSED + ' 2', f'{DECOMPOSED} 2.jpg'),
    ],
)
def test_names_that_mean_a_file(read, images, tmp_path, name, file):
    reader = read(tmp_path, images, [name.format(images=images)])
    assert reader.files == [file] and not reader.missing_files()
    reader[0][0].close()
    notes = [note for note in reader.notes if 'no extension' in note]
    if name.endswith(('jpg', 'PNG')):
        assert notes == []
    else:
        (note,) = notes
        assert note.startswith(
            f'1 of 1 names have no extension, their files were found: {file.rpartition("/")[2]!r} for'
        )


@every_reader
@pytest.mark.parametrize('folder, name', [('b.1', 'b.1'), ('\u00e9', 'e\u0301')])
def test_folder_is_no_image(folder, name, read, images, tmp_path):
    (images / folder).mkdir(exist_ok=True)
    (images / 'a.png').mkdir()
    (images / f'{folder}.webp').touch()
    reader = read(tmp_path, images, [name])
    assert reader.files == [f'{folder}.webp'] and not reader.missing_files()
    assert read(tmp_path, images, ['a']).files == ['a.jpg']
    assert read(tmp_path, images, ['a.png']).missing_files() == [str(images / 'a.png')]


@every_reader
@pytest.mark.parametrize(
    'name, message',
    [
        ('../x.png', "'../x.png' is not a path inside the image folder '{images}'. Give .* or another --data-dir."),
        ('sub/../../x.png', 'not a path inside the image folder'),
        ('..\\x.png', 'not a path inside the image folder'),
        ('/etc/passwd', "'/etc/passwd' is not a path inside"),
        ('{images}-2/a.jpg', "images-2/a.jpg' is not a path inside .* --data-dir"),
        ('C:\\data\\a.jpg', 'not a path inside'),
        ('\\\\server\\a.jpg', 'not a path inside'),
        ('.', 'not a path inside'),
        ('{images}', 'not a path inside'),
        ('http://x.org/a.jpg', "'http://x.org/a.jpg' is a URL: download the images first"),
        ('s3://bucket/a.jpg', 'is a URL: download the images first'),
        ('two', "'two' has no extension and may be any of 'two.jpg', 'two.png'"),
    ],
)
def test_names_that_are_refused(read, images, tmp_path, name, message):
    with pytest.raises(ValueError, match=message.format(images=re.escape(str(images)))) as raised:
        read(tmp_path, images, ['a.jpg', name.format(images=images)])
    assert 'table.' in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.parametrize('name', ['', 'a\0.jpg', 'a\ud800.jpg', 'a.jpg/' + '../' * 4000])
def test_odd_names(images, name):
    with pytest.raises(ValueError, match='not a path inside'):
        ImageFolder(images).find(name)


def test_long_names_are_missing(images):
    assert ImageFolder(images).find('a/' * 5000 + 'a.jpg') is None and ImageFolder(images).find('a' * 5000) is None


@every_reader
@pytest.mark.parametrize(
    'name, similar', [('a.JPG', 'a.jpg'), ('SUB/a.jpg', None), ('A.png', 'a.jpg'), ('z.jpg', None)]
)
def test_similar_files_are_named(read, images, tmp_path, name, similar):
    reader = read(tmp_path, images, [name, 'sub/000.jpg'])
    assert reader.missing_files() == [str(images / name)]
    hint = f', but {similar!r} is there' if similar else ''
    assert reader.hint(str(images / name)) == hint
    if not (images / name).exists():  # some disks open it
        with pytest.raises(FileNotFoundError, match=f'No such file or directory{hint}: '):
            reader[0]


def test_error_names_the_file_of_another_case(images, tmp_path):
    (tmp_path / 'table.csv').write_text('file,cat\na.JPG,1\n')
    with pytest.raises(FileNotFoundError, match="a.JPG', but 'a.jpg' is there. Check the image folder"):
        open_split('csv', images, str(tmp_path / 'table.csv'))


@every_reader
@pytest.mark.parametrize('other', ['sub\\000.jpg', './sub/000.jpg', 'sub/000', '{images}/sub/000.jpg'])
def test_two_names_of_one_file(read, images, tmp_path, other):
    with pytest.raises(ValueError, match='same file|listed twice|also on line 2'):
        read(tmp_path, images, ['sub/000.jpg', other.format(images=images)])


@every_reader
def test_links(read, images, tmp_path):
    """The image folder may be a link, and images may be links that lead out of it."""
    (tmp_path / 'link').symlink_to(images)
    (images / 'far.jpg').symlink_to(images.parent / 'far.jpg')
    names = [f'{images}/a.jpg', f'{tmp_path}/link/sub/000.jpg', 'far.jpg', f'{tmp_path}/link/sub/deep/1.PNG']
    files = ['a.jpg', 'sub/000.jpg', 'far.jpg', 'sub/deep/1.PNG']
    for folder in (tmp_path / 'link', images):
        reader = read(tmp_path, folder, names)
        assert reader.files == files and reader.targets.tolist() == [[0, 1]] + [[1, 0]] * 3


def test_relative_image_folder(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_coco(tmp_path, 'images', [f'{images}/a.jpg']).files == ['a.jpg']


def test_folders_are_listed_once(images, monkeypatch):
    listed = []
    monkeypatch.setattr(
        names.os, 'scandir', lambda path, list_folder=os.scandir: listed.append(path) or list_folder(path)
    )
    folder = ImageFolder(images)
    for i in range(100):
        assert (
            folder.find(f'{i}.jpg') is None and folder.find(f'sub/{i}') is None and folder.similar(f'{i}.JPG') is None
        )
    assert sorted(listed) == [images, images / 'sub']


def test_voc_names(voc_folder):
    pictures = voc_folder / 'VOCdevkit' / 'VOC2007' / 'JPEGImages'
    (pictures / '000002.jpg').rename(pictures / '000002.PNG')
    reader = VocReader(voc_folder, '2007/trainval')
    assert [name.rpartition('/')[2] for name in reader.files] == ['000001.jpg', '000002.PNG', '000010.jpg']
    assert reader.class_names == list(VOC_CLASSES) and not reader.missing_files()
