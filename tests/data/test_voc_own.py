"""VOC annotations of own classes, and of other tools."""

import numpy as np
import pytest
from conftest import save_image

from gkgnet_timm.class_names import VOC_CLASSES
from gkgnet_timm.data import VocReader, create_dataset, open_split

HARD, EASY = '<difficult>1</difficult>', '<difficult>0</difficult>'


@pytest.fixture
def devkit(tmp_path):
    """Write a devkit of a split for each list of annotations: objects as (name, further tags), or a file name."""
    root = tmp_path / 'VOCdevkit' / 'VOC2020'
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / folder).mkdir(parents=True)

    def write(split='train', **annotations):
        for i, (image_id, objects) in enumerate(annotations.items()):
            items = ''.join(
                f'<filename>{item}</filename>'
                if isinstance(item, str)
                else f'<object><name>{item[0]}</name>{item[1]}</object>'
                for item in objects
            )
            (root / 'Annotations' / f'{image_id}.xml').write_text(f'<annotation>{items}</annotation>', encoding='utf-8')
            save_image(root / 'JPEGImages' / f'{image_id}.jpg', i)
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text('\n'.join(annotations) + '\n')
        return root

    return write


def test_own_classes_are_found_in_the_xml_files(devkit, tmp_path):
    devkit(a=[('zebu', ''), (' apple ', HARD)], b=[('apple', HARD), ('apple', EASY)], c=[])
    reader = VocReader(tmp_path, '2020/train')
    assert reader.class_names == ['apple', 'zebu'] and reader.targets.tolist() == [[-1, 1], [1, 0], [0, 0]]
    assert reader.notes == ["The classes are those of the XML files: 'apple', 'zebu'."]


def test_usual_classes_stay(devkit, tmp_path):
    devkit(a=[('dog', '')], b=[])
    assert VocReader(tmp_path, '2020/train').class_names == list(VOC_CLASSES)
    devkit('none', c=[])
    reader = VocReader(tmp_path, '2020/none')
    assert reader.class_names == list(VOC_CLASSES) and not reader.targets.any()
    devkit('mixed', d=[('dog', ''), ('apple', '')])
    with pytest.raises(ValueError, match="d.xml': object 2 has name 'apple', expected one of the 20 VOC classes"):
        VocReader(tmp_path, '2020/mixed')


def test_class_map(devkit, tmp_path):
    devkit(a=[('zebu', ''), ('dog', '')], b=[('dog', HARD)])
    path = tmp_path / 'names.txt'
    path.write_text('zebu\napple\ndog\n')
    dataset = create_dataset('voc', tmp_path, '2020/train', class_map=path)
    assert dataset.class_names == ['zebu', 'apple', 'dog'] and dataset.targets().tolist() == [[1, 0, 1], [0, 0, -1]]
    devkit('dogs', c=[('dog', ''), ('person', HARD)])
    path.write_text('person\ndog\n')
    dataset = create_dataset('voc', tmp_path, '2020/dogs', class_map=path)
    assert dataset.class_names == ['person', 'dog'] and dataset.targets().tolist() == [[-1, 1]]
    path.write_text('zebu\n')
    with pytest.raises(ValueError, match="a.xml': object 2 has name 'dog'.* training split or --class-map"):
        create_dataset('voc', tmp_path, '2020/train', class_map=path)


def test_lists_of_own_classes(devkit, tmp_path):
    root = devkit(a=[], b=[])
    for name, lines in (('zebu', 'a 1\nb -1\n'), ('apple', 'a -1\nb 0\n')):
        (root / 'ImageSets' / 'Main' / f'{name}_train.txt').write_text(lines)
    reader = VocReader(tmp_path, '2020/train', ['zebu', 'apple'])
    assert reader.class_names == ['zebu', 'apple'] and reader.targets.tolist() == [[1, 0], [0, -1]]


def test_lists_of_other_classes(voc_folder):
    """As when the checkpoint is of another data set."""
    assert VocReader(voc_folder, '2007/test', ['person', 'dog']).targets.tolist() == [[-1, 1], [1, 0]]
    for names in (['circle', 'star'], ['person', 'truck']):
        with pytest.raises(
            ValueError, match="does not know: 'aeroplane', .*Only known there: '(circle', 'star|truck)'"
        ):
            create_dataset('voc', voc_folder, '2007/test', class_names=names)


def test_classes_are_those_of_the_training_split(devkit, tmp_path, capsys):
    devkit(a=[('zebu', '')], b=[('apple', '')])
    devkit('val', c=[('zebu', '')])
    train = open_split('voc', tmp_path, '2020/train', part='train')
    val = open_split('voc', tmp_path, '2020/val', class_names=train.class_names)
    assert val.class_names == ['apple', 'zebu'] and val.targets().tolist() == [[0, 1]]
    devkit('val', c=[('pear', '')])
    with pytest.raises(ValueError, match="c.xml': object 1 has name 'pear', expected .*: 'apple', 'zebu'. "):
        open_split('voc', tmp_path, '2020/val', class_names=train.class_names)


def test_empty_classes_are_dropped(voc_folder):
    train = create_dataset('voc', voc_folder, '2007/trainval', drop_empty_classes=True)
    assert train.class_names == ['dog', 'person'] and train.targets().tolist() == [[1, -1], [0, 1], [0, 0]]
    val = create_dataset('voc', voc_folder, '2007/test', class_names=train.class_names, drop_empty_classes=True)
    assert val.class_names == ['dog', 'person'] and val.targets().tolist() == [[1, -1], [0, 1]]


@pytest.mark.parametrize(
    'tag, target',
    [
        ('', 1),
        ('<difficult/>', 1),
        ('<difficult></difficult>', 1),
        ('<difficult> 0 </difficult>', 1),
        ('<difficult>Unspecified</difficult>', 1),
        ('<difficult>unspecified</difficult>', 1),
        (HARD, -1),
    ],
)
def test_difficult(devkit, tmp_path, tag, target):
    devkit(a=[('dog', tag)])
    assert VocReader(tmp_path, '2020/train').targets[0, VOC_CLASSES.index('dog')] == target


@pytest.mark.parametrize(
    'files, filename, expected',
    [
        (['a.jpg', 'a.png', 'x.png'], 'x.png', 'a.jpg'),
        (['a.png'], '', 'a.png'),
        (['a.jpeg'], 'gone.jpg', 'a.jpeg'),
        (['a.JPG'], '', 'a.JPG'),
        (['photo 1.png', 'a.png'], 'photo 1.png', 'photo 1.png'),
        (['photo.JPEG'], 'photo', 'photo.JPEG'),
        (['b.png'], '', 'a.jpg'),
    ],
)
def test_image_files(devkit, tmp_path, files, filename, expected):
    root = devkit(a=[filename, ('dog', '')] if filename else [('dog', '')])
    (root / 'JPEGImages' / 'a.jpg').unlink()
    for i, name in enumerate(files):
        save_image(root / 'JPEGImages' / name, i)
    reader = VocReader(tmp_path, '2020/train')
    assert reader.files == [f'VOC2020/JPEGImages/{expected}']
    assert bool(reader.missing_files()) == (expected not in files)


def test_image_files_with_lists_and_without_xml(voc_folder):
    pictures = voc_folder / 'VOCdevkit' / 'VOC2007' / 'JPEGImages'
    (pictures / '000001.jpg').rename(pictures / '000001.jpeg')
    reader = VocReader(voc_folder, '2007/test')
    assert reader.files[0].endswith('/000001.jpeg') and reader.notes == []


@pytest.mark.parametrize(
    'filename, message',
    [
        ('../x.jpg', "a.xml': '../x.jpg' is not a path inside the image folder"),
        ('b.jpg', 'are the same file|listed twice'),
    ],
)
def test_file_names_that_are_wrong(devkit, tmp_path, filename, message):
    root = devkit(a=[filename, ('dog', '')], b=[])
    (root / 'JPEGImages' / 'a.jpg').unlink()
    save_image(root / 'x.jpg', 0)
    with pytest.raises(ValueError, match=message):
        VocReader(tmp_path, '2020/train')


def test_images_without_objects_are_dropped(devkit, tmp_path, voc_folder):
    devkit(a=[('zebu', '')], b=[], c=[('apple', HARD)])
    dataset = create_dataset('voc', tmp_path, '2020/train', drop_unlabelled=True)
    assert dataset.filenames(basename=True) == ['a.jpg', 'c.jpg'] and dataset.targets().tolist() == [[0, 1], [-1, 0]]
    lists = create_dataset('voc', voc_folder, '2007/trainval', drop_unlabelled=True)
    assert lists.filenames(basename=True) == ['000001.jpg', '000002.jpg']
    devkit('none', d=[])
    with pytest.raises(ValueError, match='lists no images with a label'):
        create_dataset('voc', tmp_path, '2020/none', drop_unlabelled=True)


def test_large_and_deep_xml(devkit, tmp_path):
    root = devkit(a=[('dog', '')])
    path = root / 'Annotations' / 'a.xml'
    path.write_text('<annotation>' + '<part>' * 100000 + '</part>' * 100000 + '</annotation>')
    assert np.count_nonzero(VocReader(tmp_path, '2020/train').targets) == 0
    with open(path, 'wb') as file:
        file.truncate(1 << 33)
    with pytest.raises(ValueError, match='a.xml. has 8,589,934,592 bytes, expected at most'):
        VocReader(tmp_path, '2020/train')


def test_words_for_difficult(devkit, tmp_path):
    true, false = '<difficult>True</difficult>', '<difficult>false</difficult>'
    devkit(a=[('zebu', true)], b=[('zebu', false)])
    assert VocReader(tmp_path, '2020/train').targets.tolist() == [[-1], [1]]


@pytest.mark.parametrize('path', [r'C:\photos\a.png', '/home/photos/a.png', '../a.png'])
def test_names_of_files_from_another_machine(path, devkit, tmp_path):
    root = devkit(a=[path, ('zebu', '')])
    (root / 'JPEGImages' / 'a.jpg').rename(root / 'JPEGImages' / 'a.png')
    reader = VocReader(tmp_path, '2020/train')
    assert reader.files == ['VOC2020/JPEGImages/a.png'] and not reader.missing_files()
    (root / 'JPEGImages' / 'a.png').unlink()
    with pytest.raises(ValueError, match="a.xml': .* is not a path inside the image folder"):
        VocReader(tmp_path, '2020/train')
