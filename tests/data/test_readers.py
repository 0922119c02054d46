"""Readers of VOC, of the published annotation files and of tables: every rule, and every error in one line."""

import builtins
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from gkgnet_timm.class_names import COCO_CLASSES, VOC_CLASSES
from gkgnet_timm.data.readers.gkgnet import PublishedReader
from gkgnet_timm.data.readers.table import CsvReader
from gkgnet_timm.data.readers.voc import VocReader

OFFICIAL = ROOT.parent / 'shared' / 'data' / 'labels_only'
PERSON, DOG = VOC_CLASSES.index('person'), VOC_CLASSES.index('dog')


def fails(message, make, *args, error=ValueError, **kwargs):
    """The error is of one line and contains every part of the message that '...' separates."""
    with pytest.raises(error) as caught:
        make(*args, **kwargs)
    text = str(caught.value)
    assert '\n' not in text
    assert re.search('.*'.join(map(re.escape, message.split('...'))), text), text


# VOC


@pytest.fixture
def main(voc_folder):
    return voc_folder / 'VOCdevkit' / 'VOC2007' / 'ImageSets' / 'Main'


def write_xml(main, image_id, *objects):
    items = ''.join(f'<object><name>{name}</name>{rest}</object>' for name, rest in objects)
    path = main.parents[1] / 'Annotations' / f'{image_id}.xml'
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'<?xml version="1.0"?>\n<annotation>{items}</annotation>')
    return path


@pytest.fixture
def xml_only(main):
    """The devkit without lists of classes for `test`: dog and a difficult person; both kinds of persons; nothing."""
    for name in VOC_CLASSES:
        (main / f'{name}_test.txt').unlink()
    easy, hard = '<difficult>0</difficult>', '<difficult>1</difficult>'
    write_xml(main, '000001', ('dog', ''), ('person', hard), ('person', hard))
    write_xml(main, '000002', ('person', hard), ('person', easy), ('person', hard))
    write_xml(main, '000010')
    return main


def known(targets):
    return [{VOC_CLASSES[i]: int(row[i]) for i in np.flatnonzero(row)} for row in targets]


def test_voc_lists(voc_folder):
    expected = [{'dog': 1, 'person': -1}, {'person': 1}, {}]
    for root in (voc_folder, voc_folder / 'VOCdevkit'):
        reader = VocReader(root, '2007/trainval')
        assert known(reader.targets) == expected
    assert reader.targets.dtype == np.int8 and reader.class_names == list(VOC_CLASSES)
    assert reader.filename(0) == 'VOC2007/JPEGImages/000001.jpg'
    assert reader.filename(0, basename=True) == '000001.jpg'
    assert not reader.missing_files() and list(reader.iter_targets()) == [[DOG], [PERSON], []]
    file, target = reader[0]
    with file:
        assert file.read(2) == b'\xff\xd8' and target[PERSON] == -1


def test_voc_line_ends_blank_lines_and_bom(voc_folder, main):
    expected = VocReader(voc_folder, '2007/test').targets
    for path in main.glob('*test.txt'):
        path.write_bytes(b'\xef\xbb\xbf\r\n' + path.read_bytes().replace(b'\n', b'\r\n \r\n'))
    reader = VocReader(voc_folder, '2007/test')
    assert np.array_equal(reader.targets, expected) and len(reader) == 2


def test_voc_joined_splits(voc_folder, main):
    (main / 'test.txt').write_text('000011\n')
    for name in VOC_CLASSES:
        (main / f'{name}_test.txt').write_text('000011 -1\n')
    assert known(VocReader(voc_folder, '2007/trainval+2007/test').targets) == [
        {'dog': 1, 'person': -1},
        {'person': 1},
        {},
        {},
    ]
    fails(
        "000001.jpg' is in '2007/trainval' and in '2007/trainval'",
        VocReader,
        voc_folder,
        '2007/trainval+2007/trainval',
    )
    (main / 'test.txt').write_text('000011\n000011\n')
    fails("000011.jpg' is in '2007/test' and in '2007/test'", VocReader, voc_folder, '2007/test')


def test_voc_split_errors(voc_folder, main):
    for split in ('trainval', '/trainval', '2007/', '2007/trainval+', '2007/../x', '2007\\test'):
        fails('YEAR/LIST', VocReader, voc_folder, split)
    fails('VOC2012', VocReader, voc_folder, '2012/trainval', error=FileNotFoundError)
    fails('nope.txt', VocReader, voc_folder, '2007/nope', error=FileNotFoundError)
    (main / 'test.txt').write_text('')
    for name in VOC_CLASSES:
        (main / f'{name}_test.txt').write_text('')
    fails('lists no images', VocReader, voc_folder, '2007/test')
    for image_id in ('../../secret', 'a\\b', '000001 1'):
        (main / 'test.txt').write_text(image_id)
        fails('test.txt...not an image id', VocReader, voc_folder, '2007/test')
    (main / 'test.txt').write_bytes(b'\xff\xfe0\x00')
    fails('test.txt...UTF-8', VocReader, voc_folder, '2007/test')


@pytest.mark.parametrize('content', ['000001 2', '000001', '000099 1', '000001 1 1', '000001 1\n000001 -1'])
def test_voc_list_lines(voc_folder, main, content):
    (main / 'cat_test.txt').write_text(content + '\n')
    fails('cat_test.txt...000001' if '99' not in content else '000099', VocReader, voc_folder, '2007/test')


def test_voc_incomplete_lists(voc_folder, main):
    (main / 'cat_test.txt').write_text('000001 1\n')
    fails("cat_test.txt' has no line for image '000002'", VocReader, voc_folder, '2007/test')
    (main / 'cat_test.txt').unlink()
    fails("cat_test.txt' does not exist, while", VocReader, voc_folder, '2007/test', error=FileNotFoundError)


def test_voc_xml(voc_folder, xml_only):
    assert known(VocReader(voc_folder, '2007/test').targets) == [{'dog': 1, 'person': -1}, {'person': 1}]
    (xml_only / 'trainval.txt').write_text('000011\n')  # lists of one part, annotation files of the other
    for name in VOC_CLASSES:
        (xml_only / f'{name}_trainval.txt').write_text(f'000011 {1 if name == "cow" else -1}\n')
    assert known(VocReader(voc_folder, '2007/test+2007/trainval').targets)[-2:] == [{'person': 1}, {'cow': 1}]


def test_voc_xml_errors(voc_folder, xml_only):
    path = write_xml(xml_only, '000001', ('dog', ''), ('unicorn', ''))
    fails("000001.xml': object 2 has name 'unicorn'", VocReader, voc_folder, '2007/test')
    for value in ('2', 'yes', '-1'):
        write_xml(xml_only, '000001', ('dog', f'<difficult>{value}</difficult>'))
        fails(f"object 1...difficult '{value}'", VocReader, voc_folder, '2007/test')
    path.write_text('<annotation><object></object></annotation>')
    fails("object 1 has name ''", VocReader, voc_folder, '2007/test')
    for content in (
        b'',
        b'no xml',
        b'<annotation>',
        b'\xff\xd8\xff',
        b'<?xml version="1.0" encoding="nope"?><annotation/>',
    ):
        path.write_bytes(content)
        fails('000001.xml...not a plain XML file', VocReader, voc_folder, '2007/test')
    path.write_text('<html/>')
    fails("000001.xml' starts with element 'html'", VocReader, voc_folder, '2007/test')
    path.unlink()
    fails("000001.xml' does not exist", VocReader, voc_folder, '2007/test', error=FileNotFoundError)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_voc_xml_entities_are_refused(voc_folder, xml_only, encoding):
    path = write_xml(xml_only, '000001')
    entities = ''.join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    for doctype in (f'<!DOCTYPE a [<!ENTITY e0 "dog">{entities}]>', '<!DOCTYPE a [<!ENTITY e9 SYSTEM "/etc/passwd">]>'):
        path.write_bytes(f'{doctype}<annotation><object><name>&e9;</name></object></annotation>'.encode(encoding))
        fails('000001.xml...not a plain XML file', VocReader, voc_folder, '2007/test')


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason='official lists are not here')
def test_voc_official_lists(tmp_path):
    with zipfile.ZipFile(OFFICIAL / 'voc2007_ImageSets_Main_official.zip') as archive:
        archive.extractall(tmp_path)
    labels = np.load(OFFICIAL / 'voc2007_official_labels.npz')
    expected = {image_id: row for image_id, row in zip(labels['ids'].tolist(), labels['labels'])}
    ours = {1: 1, -1: 0, 0: -1}
    counts = dict(train=2501, val=2510, trainval=5011, test=4952)
    for split, count in counts.items():
        reader = VocReader(tmp_path, f'2007/{split}')
        rows = np.stack([expected[Path(name).stem] for name in reader.files])
        assert np.array_equal(reader.targets, np.vectorize(ours.get)(rows)) and len(reader) == count
    assert labels['classes'].tolist() == reader.class_names
    assert len(VocReader(tmp_path, '2007/train+2007/val')) == 5011
    fails("is in '2007/train' and in '2007/trainval'", VocReader, tmp_path, '2007/train+2007/trainval')


# published annotation files


def write_data(tmp_path, records, protocol=4):
    path = tmp_path / 'train.data'
    path.write_bytes(records if isinstance(records, bytes) else pickle.dumps(records, protocol))
    return path


def make_records(count=3, columns=80):
    rng = np.random.default_rng(0)
    return [
        dict(file_name=f'{i}.jpg', objects=rng.integers(0, 2, columns).tolist(), area=[0.5] * i) for i in range(count)
    ]


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('dtype', [None, np.int64, np.int8, '>i4', np.uint8, np.float32, bool, object])
def test_published(tmp_path, protocol, dtype):
    records = make_records()
    expected = np.array([record['objects'] for record in records])
    for record in records:
        record['file_name'] = np.str_(record['file_name']) if dtype is bool else record['file_name']
        if dtype is not None:
            record['objects'] = np.array(record['objects'], dtype=dtype)
    for kind in (list, tuple, lambda items: np.array(items, dtype=object)):
        reader = PublishedReader(write_data(tmp_path, kind(records), protocol), tmp_path)
        assert reader.targets.dtype == np.int8 and np.array_equal(reader.targets, expected)
        assert reader.files == ['0.jpg', '1.jpg', '2.jpg'] and {type(name) for name in reader.files} == {str}
        assert reader.class_names == list(COCO_CLASSES) and len(reader) == 3


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_published_numpy_elements(tmp_path, protocol):
    records = [dict(file_name='a.jpg', objects=[np.int64(1), np.float32(0), np.bool_(1), np.uint8(0)])]
    grid = np.asfortranarray(np.array([[1, 0, 0, 1], [0, 1, 1, 1]]))  # rows of a matrix
    records += [dict(file_name=f'{i}.jpg', objects=grid[i], grid=grid) for i in range(2)]
    reader = PublishedReader(write_data(tmp_path, records, protocol), tmp_path, 'abcd')
    assert reader.targets.tolist() == [[1, 0, 1, 0], *grid.tolist()] and reader.class_names == ['a', 'b', 'c', 'd']


def test_published_by_python_2(tmp_path):
    """As Python 2 writes it, where text and bytes are of one type, with the old name of numpy's package."""

    def text(value):
        return b'U' + bytes([len(value)]) + value

    dtype = (
        b'cnumpy\ndtype\n'
        + text(b'i8')
        + b'K\x00K\x01\x87R(K\x03'
        + text(b'<')
        + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
    )
    one, zero = b'\x01' + b'\x00' * 7, b'\x00' * 8
    array = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + text(b'b') + b'\x87R'
    array += b'(K\x01K\x03\x85' + dtype + b'\x89' + text(one + zero + one) + b'tb'
    scalar = b'cnumpy.core.multiarray\nscalar\n' + dtype + text(one) + b'\x86R'
    first = b'}(' + text(b'file_name') + text(b'a.jpg') + text(b'objects') + array + b'u'
    second = (
        b'}('
        + text(b'file_name')
        + b'X\x07\x00\x00\x00b/c.jpg'
        + text(b'objects')
        + b'](K\x00'
        + scalar
        + b'\x8a\x00eu'
    )
    reader = PublishedReader(write_data(tmp_path, b'\x80\x02](' + first + second + b'e.'), tmp_path, 'xyz')
    assert reader.files == ['a.jpg', 'b/c.jpg'] and reader.targets.tolist() == [[1, 0, 1], [0, 1, 0]]


class Call:
    """Pickles into the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_published_code_is_refused(tmp_path, protocol):
    trace = tmp_path / 'trace'
    attacks = [
        (os.system, f'touch {trace}'),
        (builtins.eval, f"open({str(trace)!r}, 'w')"),
        (builtins.getattr, 'a', 'upper'),
        (np.load, str(trace)),
        (np.fromfile, str(trace)),
        (np.ndarray, (1,), np.dtype('O'), b'\1' * 8),  # an object at an address of the attacker's choice
        (OrderedDict,),
        (torch.zeros, 3),
    ]
    for attack in attacks:
        records = make_records()
        records[1]['extra'] = Call(*attack)
        fails(
            "train.data' is not a pickle of plain data",
            PublishedReader,
            write_data(tmp_path, records, protocol),
            tmp_path,
        )
    records[1]['extra'] = torch.zeros(3)
    fails('torch', PublishedReader, write_data(tmp_path, records, protocol), tmp_path)
    torch.save(make_records(), tmp_path / 'train.data')
    fails("train.data' is not a pickle", PublishedReader, tmp_path / 'train.data', tmp_path)
    torch.save(make_records(), tmp_path / 'train.data', _use_new_zipfile_serialization=False)
    fails("train.data' does not hold a sequence", PublishedReader, tmp_path / 'train.data', tmp_path)
    assert not trace.exists()


def test_published_refusal_names_what_was_asked_for(tmp_path):
    fails(
        "'posix.system', which was not run",
        PublishedReader,
        write_data(tmp_path, b"cposix\nsystem\n(S'true'\ntR."),
        tmp_path,
    )
    strange = b'\x80\x04\x8c\x03a\nb\x8c\x03c\nd\x93.'
    fails("'a\\nb.c\\nd'", PublishedReader, write_data(tmp_path, strange), tmp_path)
    fails('persistent', PublishedReader, write_data(tmp_path, b'Pstorage\n.'), tmp_path)
    dotted = b'\x80\x04\x8c\x05numpy\x8c\x12dtype.__setstate__\x93.'
    fails('dtype.__setstate__', PublishedReader, write_data(tmp_path, dotted), tmp_path)


def test_published_arrays_of_other_types(tmp_path):
    strange = (
        np.zeros(2, dtype=[('a', 'i4')]),
        np.array([[{}, {}]]),
        np.zeros(1, 'M8[s]'),
        np.zeros(0),
        np.zeros(2, complex),
    )
    for value in strange:
        records = [dict(file_name='a.jpg', objects=[0], other=value)]
        fails('train.data...plain data', PublishedReader, write_data(tmp_path, records), tmp_path)


def test_published_damaged(tmp_path):
    data = pickle.dumps([dict(record, objects=np.array(record['objects'])) for record in make_records()])
    for broken in (b'', b'no pickle', data[:50], data[:-20], data.replace(b'i8', b'i9'), b'\x80\x63.'):
        fails('train.data...plain data', PublishedReader, write_data(tmp_path, broken), tmp_path)
    for wrong in ([], {}, 'text', 3, None, {'a': make_records()}):
        fails('does not hold a sequence', PublishedReader, write_data(tmp_path, wrong), tmp_path)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(file_name=3), "'file_name' of type int"),
        (dict(file_name=''), "'file_name' ''"),
        (dict(file_name='/etc/passwd'), "'file_name' '/etc/passwd'"),
        (dict(file_name='../a.jpg'), "'file_name' '../a.jpg'"),
        (dict(file_name='a/../../b.jpg'), 'inside the image folder'),
        (dict(file_name='C:\\a.jpg'), 'inside the image folder'),
        (dict(file_name='..\\a.jpg'), 'inside the image folder'),
        (dict(file_name='a\0.jpg'), 'inside the image folder'),
        (dict(objects=[0, 1]), 'sequence of 80'),
        (dict(objects='0' * 80), 'sequence of 80'),
        (dict(objects=None), 'sequence of 80'),
        (dict(objects=[0] * 79 + [2]), 'column 80'),
        (dict(objects=[0, -1] + [0] * 78), 'column 2'),
        (dict(objects=[0, 0.5] + [0] * 78), 'column 2'),
        (dict(objects=np.full(80, np.nan)), 'column 1'),
        (dict(objects=['0'] * 80), 'column 1'),
        (dict(objects=[[0]] * 80), 'column 1'),
    ],
)
def test_published_records(tmp_path, change, message):
    records = make_records()
    records[2].update(change)
    fails(f"train.data': record 3 ...{message}", PublishedReader, write_data(tmp_path, records), tmp_path)


def test_published_record_fields(tmp_path):
    records = make_records()
    for wrong in (3, ['file_name', 'objects'], {}, dict(file_name='a.jpg'), dict(objects=[0] * 80)):
        fails('record 2 is not a dict', PublishedReader, write_data(tmp_path, [records[0], wrong]), tmp_path)
    records[0]['objects'] = []
    fails('record 1 ', PublishedReader, write_data(tmp_path, records), tmp_path)


def test_published_nesting_without_bound(tmp_path):
    bomb = np.array([0], dtype=object)
    for _ in range(60):
        bomb = np.array([bomb, bomb, None], dtype=object)
    for name, row in (('a.jpg', bomb), (bomb, [0])):
        fails('record 1', PublishedReader, write_data(tmp_path, [dict(file_name=name, objects=row)]), tmp_path)


def test_published_class_names(tmp_path):
    path = write_data(tmp_path, make_records(columns=3))
    fails('3 columns, there are 0...--class-map FILE', PublishedReader, path, tmp_path)
    fails('3 columns, there are 2...--class-map FILE', PublishedReader, path, tmp_path, ['a', 'b'])
    fails("class 'a' twice", PublishedReader, path, tmp_path, ['a', 'b', 'a'])
    names = COCO_CLASSES[::-1]  # columns in another order
    assert PublishedReader(write_data(tmp_path, make_records()), tmp_path, names).class_names == list(names)


def test_published_missing(tmp_path):
    fails('train.data', PublishedReader, tmp_path / 'train.data', tmp_path, error=FileNotFoundError)
    path = write_data(tmp_path, make_records())
    fails('nowhere', PublishedReader, path, tmp_path / 'nowhere', error=FileNotFoundError)


# tables


@pytest.fixture
def read(tmp_path):
    def read(content, class_names=None):
        path = tmp_path / 'table.csv'
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CsvReader(path, tmp_path, class_names)

    return read


MULTI_HOT = 'file,cat,dog\na.jpg,1,0\nmore/b.JPG,,-1\nc.png,0,1\n'
NAMES = 'file,labels\na.jpg,dog|cat\nb.jpg,\nc.jpg,cat\n'


@pytest.mark.parametrize(
    'change',
    [
        lambda text: text,
        lambda text: text.replace(',', '\t'),
        lambda text: text.replace('\n', '\r\n'),
        lambda text: text.replace('\n', '\n\n'),
        lambda text: '\n' + text.replace('\n', '\n,,\n' if 'dog\n' in text else '\n,\n'),
        lambda text: text.replace(',', ' , '),
        lambda text: '\ufeff' + text,
        lambda text: text.rstrip('\n'),
    ],
)
def test_table_files(read, change):
    reader = read(change(MULTI_HOT))
    assert reader.files == ['a.jpg', 'more/b.JPG', 'c.png'] and reader.class_names == ['cat', 'dog']
    assert reader.targets.dtype == np.int8 and reader.targets.tolist() == [[1, 0], [-1, -1], [0, 1]]
    reader = read(change(NAMES))
    assert reader.class_names == ['cat', 'dog'] and reader.targets.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_table_example(read):
    example = re.split(r'\n\n', CsvReader.__doc__)
    multi_hot, names = (
        '\n'.join(line.strip() for line in block.splitlines()) for block in example if block.strip().startswith('file,')
    )
    reader = read(multi_hot)
    assert (reader.class_names, reader.targets.tolist()) == (['cat', 'dog'], [[1, 0], [-1, 1]])
    reader = read(names)
    assert (reader.class_names, reader.targets.tolist()) == (['cat', 'dog'], [[1, 0], [1, 1], [0, 0]])


def test_table_without_header(read):
    content = MULTI_HOT.partition('\n')[2]
    assert read(content, ['x', 'y']).targets.tolist() == [[1, 0], [-1, -1], [0, 1]]
    fails('table.csv...line 1: no header...--class-map FILE', read, content)
    fails('table.csv...line 1: columns of labels: 2, class names: 3', read, content, ['x', 'y', 'z'])
    reader = read(NAMES.partition('\n')[2])
    assert len(reader) == 3 and reader.targets.tolist() == [[1, 1], [0, 0], [1, 0]]
    reader = read('a.webp,cat\nb.webp,dog\n')  # no format of timm's list
    assert len(reader) == 2
    assert len(read('file,labels\n000001,cat\n000002,dog\n')) == 2


def test_table_of_one_class(read):
    reader = read('file,cat\na.jpg,1\nb.jpg,\n')
    assert reader.class_names == ['cat'] and reader.targets.tolist() == [[1], [0]]
    assert read('a.jpg,1\nb.jpg,-1\n', ['cat']).targets.tolist() == [[1], [0]]
    reader = read('a.jpg,1\nb.jpg,3\n')  # names that look like numbers
    assert reader.class_names == ['1', '3'] and reader.targets.tolist() == [[1, 0], [0, 1]]


def test_table_separators(read):
    reader = read('f,l\na.jpg,"hot dog; x, y|cat |"\nb.jpg,cat\n')
    assert reader.class_names == ['cat', 'hot dog; x, y']
    reader = read('f,l\na.jpg,"hot, dog;cat"\nb.jpg,cat;cat\n')
    assert reader.class_names == ['cat', 'hot, dog'] and reader.targets.tolist() == [[1, 1], [1, 0]]
    assert read('f,l\na.jpg,"dog, cat"\n').class_names == ['cat', 'dog']
    assert read('f\tl\na.jpg\tdog,cat\n').class_names == ['cat', 'dog']
    assert read('f,l\na.jpg,hot dog\n').class_names == ['hot dog']


def test_table_class_names(read):
    reader = read(MULTI_HOT, ['dog', 'cat'])
    assert reader.class_names == ['dog', 'cat'] and reader.targets.tolist() == [[0, 1], [-1, -1], [1, 0]]
    fails("table.csv...line 1: class 'cat' of the header is not one of the 2 of", read, MULTI_HOT, ['dog', 'cow'])
    fails('columns of labels: 2, class names: 3', read, MULTI_HOT.partition('\n')[2], ['dog', 'cat', 'a'])
    reader = read(MULTI_HOT, ['ant', 'dog', 'cat'])
    assert reader.class_names == ['dog', 'cat'] and reader.targets.tolist() == [[0, 1], [-1, -1], [1, 0]]
    reader.take_classes(['ant', 'dog', 'cat'])
    assert reader.targets[:, 0].tolist() == [0, 0, 0] and "1 of 3 classes are not listed here" in reader.notes[-1]
    fails("names class 'cat' twice", read, MULTI_HOT.replace('dog', 'cat'))
    fails('empty class name', read, MULTI_HOT.replace('dog', ''))
    fails("names class 'a' twice", read, MULTI_HOT, ['a', 'a'])
    reader = read(NAMES, ['cow', 'dog', 'cat'])
    assert reader.class_names == ['cow', 'dog', 'cat'] and reader.targets.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1]]
    fails(
        "table.csv...line 2: class 'dog' is not one of the 1 of the training split or --class-map", read, NAMES, ['cat']
    )
    assert read('f,l\na.jpg,\n', ['cat']).targets.tolist() == [[0]]
    fails('no class', read, 'f,l\na.jpg,\n')


@pytest.mark.parametrize(
    'content, message',
    [
        ('', 'line 1: the table has no images'),
        ('\n\n', 'line 3: the table has no images'),
        ('file,cat\n', 'line 1: the table has no images'),
        ('a.jpg\nb.jpg\n', "line 1: 'a.jpg' is not a file name and its labels"),
        (MULTI_HOT + 'd.jpg,1\n', 'line 5: cells...2, expected 3'),
        (MULTI_HOT + '\nd.jpg,1,0,1\n', 'line 6: cells...4, expected 3'),
        ('a.jpg,cat\nb.jpg,cat,dog\n', 'line 2: cells...3, expected 2...Quote'),
        (MULTI_HOT + 'd.jpg,1,maybe\n', "line 5: column 3 has 'maybe'"),
        (MULTI_HOT + 'd.jpg,2,0\n', "line 5: column 2 has '2'"),
        (MULTI_HOT + 'a.jpg,1,0\n', "line 5: 'a.jpg' is also on line 2"),
        (MULTI_HOT + './/a.jpg,1,0\n', "line 5: 'a.jpg' is also on line 2"),
        ('f,l\na.jpg,"x|\ny"\nb.jpg,z\na.jpg,z\n', "line 5: 'a.jpg' is also on line 2"),
        (NAMES + 'a.jpg,cat\n', "line 5: 'a.jpg' is also on line 2"),
        (NAMES + ',cat\n', "line 5: '' is not a path inside"),
        (NAMES + '../d.jpg,cat\n', "line 5: '../d.jpg' is not a path inside"),
        (NAMES + '/d.jpg,cat\n', "line 5: '/d.jpg' is not a path inside"),
        (NAMES + 'd.jpg,"cat\n', 'line 5: not csv'),
        (NAMES + '"d".jpg,cat\n', 'line 5: not csv'),
        (NAMES.encode() + b'd.jpg,caf\xe9\n', 'line 5: not in UTF-8'),
        (b'\xef\xbb\xbf' + NAMES.encode() + b'd.jpg,caf\xe9\n', 'line 5: not in UTF-8'),
        (NAMES.encode('utf-16')[:-1], 'line 4: not in UTF-16'),
    ],
)
def test_table_errors(read, content, message):
    fails(f"table.csv', {message}", read, content)


def test_table_missing(tmp_path, read):
    fails('nope.csv', CsvReader, tmp_path / 'nope.csv', tmp_path, error=FileNotFoundError)
    read(NAMES)
    fails('nowhere', CsvReader, tmp_path / 'table.csv', tmp_path / 'nowhere', error=FileNotFoundError)
