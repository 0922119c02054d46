"""Tables as other tools write them: each is read right, or refused with both readings and the flag that decides."""

import csv
import io
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import check, fails, names, table

from gkgnet_timm.class_names import clean_name, read_class_map
from gkgnet_timm.data.readers.table import CsvReader
from gkgnet_timm.data.readers.table_cells import Meaning

# what -1, blanks and spellings mean


@pytest.mark.parametrize(
    'rows, targets, note',
    [
        (('1,-1', '-1,1'), [[1, 0], [0, 1]], '-1 means absent, as there is no 0 and no empty cell.'),
        (('1.0,-1.0', '-1,+1'), [[1, 0], [0, 1]], '-1 means absent'),
        (('1,-1', '0,1'), [[1, -1], [0, 1]], '-1 means unknown.'),
        (('1,-1', '-1,'), [[1, -1], [-1, -1]], '-1 means unknown.'),
        (('1,-1', '-1,'), [[1, -1], [-1, -1]], 'An empty cell means unknown.'),
        (('1,-1', '-1,nan'), [[1, -1], [-1, -1]], '-1 means unknown.'),
        (('1,0', ',1'), [[1, 0], [-1, 1]], 'An empty cell means unknown.'),
        (('x,', ',X'), [[1, 0], [0, 1]], "An empty cell means absent, as 'x' is the only other value."),
        (('1,', ',1.0'), [[1, 0], [0, 1]], 'An empty cell means absent'),
        (('yes,', ',yes'), [[1, 0], [0, 1]], "An empty cell means absent, as 'yes'"),
        (('yes,', ',x'), [[1, -1], [-1, 1]], 'An empty cell means unknown.'),
        (('1,0', 'nan,1'), [[1, 0], [-1, 1]], "Cells of 'nan' mean unknown."),
    ],
)
def test_meaning_of_cells(read, rows, targets, note):
    reader = read(table(*rows))
    check(reader, ['cat', 'dog'], targets)
    assert any(line.startswith(note) for line in reader.notes), reader.notes


@pytest.mark.parametrize(
    'present, absent',
    [('1', '0'), ('1.0', '0.0'), ('+1', '0'), ('True', 'False'), ('TRUE', 'false'), ('yes', 'no'), ('YES', 'No')]
    + [('x', '0'), ('Y', 'n'), ('1.00', '-0'), ('present', 'absent')],
)
def test_spellings(read, present, absent):
    check(read(table(f'{present},{absent}', f'{absent},{present}')), ['cat', 'dog'], [[1, 0], [0, 1]])
    check(read(table(present, absent, header='file,cat')), ['cat'], [[1], [0]])
    fails("line 4: 'maybe' is neither...--class-map", read, table(present, absent, 'maybe', header='file,cat'))
    odd = table(f'{present},{absent}', f'{absent},maybe')
    fails("line 3: column 3 has 'maybe'...--label-columns", read, odd)


def test_letters_as_names(read):
    check(read(table('x', 'y', header='file,axis')), ['x', 'y'], [[1, 0], [0, 1]])
    check(read(table('x', 'x', header='file,axis')), ['axis'], [[1], [1]])
    ids = names('0 1', '0', '1')
    fails("'0 1' may be...--label-separator ' '", read, ids)
    check(read(ids, label_separator=' '), ['0', '1'], [[1, 1], [1, 0], [0, 1]])


def test_numbers_as_names_are_listed(read):
    content = table('1', '0', '2', header='file,kind')
    fails("line 4: '2' is neither", read, content)
    check(read(content, ['0', '1', '2']), ['0', '1', '2'], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    check(read(table('1', '0', header='file,kind'), ['0', '1', '2']), ['0', '1', '2'], [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize('unknown', ['ignore', 'negative', 'positive'])
def test_unknown_labels_overrule(read, unknown):
    reader = read(table('1,-1', '-1,1'), unknown=unknown)
    check(reader, ['cat', 'dog'], [[1, -1], [-1, 1]])
    assert reader.meaning == Meaning('unknown', 'unknown', unknown=unknown)
    assert f'-1 means unknown, by --unknown-labels {unknown}.' in reader.notes


@pytest.mark.parametrize(
    'training, rows, message',
    [
        (('1,-1', '-1,1'), ('1,0', '-1,1'), '-1 means absent in the training split, but unknown in this one'),
        (('1,-1', '-1,1'), ('1,', '-1,1'), '-1 means absent in the training split'),
        (('1,-1', '0,1'), ('1,-1', '-1,1'), '-1 means unknown in the training split, but absent in this one'),
        (('1,0', '0,1'), ('1,-1', '-1,1'), '-1 means unknown in the training split, but absent'),
        (('x,', ',x'), ('1,0', ',1'), 'an empty cell means absent in the training split, but unknown'),
        (('1,0', ',1'), ('1,', ',1'), 'an empty cell means unknown in the training split, but absent'),
        (('1,-1', '-1,1'), ('-1,-1', '-1,1'), None),
        (('1,-1', '-1,1'), ('-1,-1', '-1,-1'), None),
        (('1,-1', '0,1'), ('1,0', '0,1'), None),
        (('x,', ',x'), ('x,', ',yes'), 'an empty cell means absent in the training split'),
    ],
)
def test_other_splits_follow_training(read, training, rows, message):
    meaning = Meaning.from_record(read(table(*training)).meaning.to_record())
    if message is None:
        reader = read(table(*rows), ['cat', 'dog'], meaning=meaning)
        expected = [
            [int(cell) if meaning.minus == 'unknown' else int(cell == '1') for cell in row.split(',')] for row in rows
        ]
        check(reader, ['cat', 'dog'], expected)
    else:
        fails(f'{message}...--unknown-labels', read, table(*rows), ['cat', 'dog'], meaning=meaning)
        assert read(table(*rows), ['cat', 'dog'], meaning=meaning, unknown='ignore').meaning.minus == 'unknown'


@pytest.mark.parametrize('record', [3, {'minus': 'both'}, {'blank': ['absent']}, {'separator': 1}, {'unknown': 'x'}])
def test_damaged_record(record):
    with pytest.raises(ValueError, match='damaged'):
        Meaning.from_record(record)


# names


@pytest.mark.parametrize('separator', [' ', '\t', ':', '/', ' and ', '&', '+', '_', '-'])
def test_combinations_are_refused(read, separator):
    content = names(f'sky{separator}water', 'sky', 'water')
    shown = repr(separator)
    whole = re.sub(' +', ' ', f'sky{separator}water')
    fails(
        f"line 2: {whole!r} may be the one class {whole!r}, or the 2 classes 'sky', 'water'..."
        f"--label-separator {shown}...--label-separator '|' to keep",
        read,
        content,
    )
    reader = read(content, label_separator=separator.replace('\t', '\\t'))
    check(reader, ['sky', 'water'], [[1, 1], [1, 0], [0, 1]])
    check(
        read(content, label_separator='|'),
        sorted({whole, 'sky', 'water'}),
        read(content, label_separator='').targets.tolist(),
    )
    check(read(content, ['sky', 'water', whole]), ['sky', 'water', whole], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    fails(f'All of its parts are: give --label-separator {shown}', read, content, ['sky', 'water'])
    validation = read(names(f'water{separator}sky'), ['sky', 'water'], meaning=reader.meaning)
    check(validation, ['sky', 'water'], [[1, 1]])


def test_combinations_without_single_names(read):
    tags = names('haze primary', 'clear primary', 'clear water', 'haze water', 'clear primary water')
    fails("'clear primary' may be...--label-separator ' '", read, tags)
    assert read(tags, label_separator=' ').class_names == ['clear', 'haze', 'primary', 'water']
    assert len(read(names('traffic light', 'fire hydrant', 'hot dog', 'dog', 'teddy bear', 'bear')).class_names) == 6


@pytest.mark.parametrize(
    'first, second, empty',
    [
        ('"[\'sky\', \'water\']"', "['sky']", '[]'),
        ('"[""sky"", ""water""]"', '"[""sky""]"', '""'),
        ("['sky' 'water']", "['sky']", 'nan'),
        ("['sky'\n 'water']".join('""'), "['sky']", '[]'),
        ('"(\'sky\', \'water\')"', '"(\'sky\',)"', '()'),
        ('"{\'water\', \'sky\'}"', "{'sky'}", 'set()'),
        ('"[np.str_(\'sky\'), np.str_(\'water\')]"', "[np.str_('sky')]", '[]'),
        ('"array([\'sky\', \'water\'], dtype=\'<U5\')"', "array(['sky'])", '[None]'),
    ],
)
def test_lists_of_names(read, first, second, empty):
    reader = read(names(first, second, empty))
    check(reader, ['sky', 'water'], [[1, 1], [1, 0], [0, 0]])
    assert 'Names are in lists.' in reader.notes


def test_names_in_lists_stay_whole(read):
    reader = read(names('"[""a|b, c"", ""it\'s"", ""caf\\u00e9""]"', '"[\'d e\', \'it\\\'s\']"'))
    check(reader, ['a|b, c', 'café', 'd e', "it's"], [[1, 1, 0, 1], [0, 0, 1, 1]])
    check(read(names('(other)', 'cat')), ['(other)', 'cat'], [[1, 0], [0, 1]])
    fails("line 2: the list '[sky, water]' has 'sky' without quotes", read, names('"[sky, water]"'))
    fails('was cut when it was printed', read, names('[0 0 ... 1]'))
    fails("line 3: 'water' is not a list", read, names("['sky']", 'water'))


@pytest.mark.parametrize('first, second', [('[1 0 1]', '[0 0 1]'), ('"[1, 0, 1]"', '"[0,0,1]"')])
@pytest.mark.parametrize('number', ['{}', '{}.', '{}.0'])
def test_multi_hot_lists(read, first, second, number):
    content = names(*(re.sub(r'\d', lambda found: number.format(found[0]), cell) for cell in (first, second)))
    check(read(content, ['x', 'y', 'z']), ['x', 'y', 'z'], [[1, 0, 1], [0, 0, 1]])
    fails('line 2: lists of 3 numbers, without names...--class-map', read, content)
    fails('lists of 3 numbers, class names: 2', read, content, ['x', 'y'])


def test_other_lists_of_numbers(read):
    check(read(names('[True False]', '[0 -1]', ''), ['x', 'y']), ['x', 'y'], [[1, 0], [0, -1], [-1, -1]])
    check(read(names('"[3, 7]"', '[3]', '[]')), ['3', '7'], [[1, 1], [1, 0], [0, 0]])
    fails('line 3: a list of 2 numbers, expected 3', read, names('[1 0 1]', '[1 0]'))
    fails('lists of one number may be', read, names('[1]', '[0]'))
    check(read(names('[1]', '[0]'), ['cat']), ['cat'], [[1], [0]])
    fails('are no class names but 1 and 0', read, names('"1,0,1"', '"0,0,1"'))


def test_nothing_is_no_label(read):
    reader = read(names('cat', 'nan', 'None', '-', 'NaN', 'cat|null', '<NA>'))
    check(reader, ['cat'], [[1], [0], [0], [0], [0], [1], [0]])
    assert "Cells of '-', '<NA>', 'NaN', 'None', 'nan' have no label." in reader.notes
    check(read(names('cat', 'none'), ['cat', 'none']), ['cat', 'none'], [[1, 0], [0, 1]])


def test_case(read):
    content = names('cat', 'Cat', 'CAT ', 'dog')
    fails("line 3: class 'Cat' and, on line 2, class 'cat' differ in case only...--ignore-case", read, content)
    check(read(content, ignore_case=True), ['cat', 'dog'], [[1, 0], [1, 0], [1, 0], [0, 1]])
    fails("class 'Cat' is not one of...'cat' is: give --ignore-case", read, content, ['cat', 'dog'])
    check(read(content, ['dog', 'CAT'], ignore_case=True), ['dog', 'CAT'], [[0, 1], [0, 1], [0, 1], [1, 0]])
    fails("class 'Cat' and, on line 1, class 'cat'", read, table('1,0', header='file,cat,Cat'))
    check(read(table('1,0'), ['Dog', 'Cat'], ignore_case=True), ['Dog', 'Cat'], [[0, 1]])


def test_forms_of_one_name(read):
    check(
        read(names('caf\u00e9', 'cafe\u0301', 'hot  dog', 'hot dog')),
        ['café', 'hot dog'],
        [[1, 0], [1, 0], [0, 1], [0, 1]],
    )


# columns


@pytest.mark.parametrize('header', ['', 'Unnamed: 0'])
def test_leading_index(read, header):
    check(read(f'{header},file,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n'), ['cat', 'dog'], [[1, 0], [0, 1]])
    reader = read(f'{header},file,labels\n7,a.jpg,cat\n9,b.jpg,dog\n')
    check(reader, ['cat', 'dog'], [[1, 0], [0, 1]])
    assert reader.files == ['a.jpg', 'b.jpg']
    assert read(f'{header},cat\n000001,1\n000002,0\n').files == ['000001', '000002']  # an index of images
    check(read('0,a.jpg,cat\n1,b.jpg,dog\n2,c.jpg,\n'), ['cat', 'dog'], [[1, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    'content',
    [
        'cat,dog,file\n1,0,a.jpg\n0,1,b.jpg\n',
        'cat,image_id,dog\n1,000a,0\n0,000b,1\n',
        'cat,p,dog\n1,a.JPG,0\n0,b.tiff,1\n',
    ],
)
def test_files_are_found_anywhere(read, content):
    reader = read(content)
    check(reader, ['cat', 'dog'], [[1, 0], [0, 1]])
    assert len(reader.files) == 2 and all(file[0] in '0ab' for file in reader.files)


SPLIT = 'file,width,labels,split\na.jpg,640,cat,train\nb.jpg,480,dog,train\nc.jpg,9,cat|dog,val\n'


def test_columns_by_name(read):
    fails("line 2: column 2 has '640'...--label-columns (of 'file', 'width', 'labels', 'split')", read, SPLIT)
    check(read(SPLIT, label_columns='labels'), ['cat', 'dog'], [[1, 0], [0, 1], [1, 1]])
    several = 'file,width,cat,"big, dog",split\na.jpg,640,1,0,train\n'
    check(read(several, label_columns='cat,"big, dog"'), ['cat', 'big, dog'], [[1, 0]])
    check(read(several, label_columns=['big, dog', 'cat']), ['big, dog', 'cat'], [[0, 1]])
    fails("no column 'tag'. --label-columns is one of 'file', 'width'", read, SPLIT, label_columns='tag')
    fails("no column 'path'. --image-column is one of", read, SPLIT, image_column='path')
    masks = 'image,mask,cat\na.jpg,a.png,1\nb.jpg,b.png,0\n'
    fails("line 1: several columns hold files, those under 'image', 'mask'. Give --image-column", read, masks)
    reader = read(masks, image_column='mask', label_columns='cat')
    assert reader.files == ['a.png', 'b.png'] and reader.targets.tolist() == [[1], [0]]
    fails("'a.png' is the name of a file", read, 'image,mask\na.jpg,a.png\nb.jpg,b.png\n', image_column='image')


def test_where(read):
    reader = read(SPLIT, label_columns='labels', where='split=train')
    check(reader, ['cat', 'dog'], [[1, 0], [0, 1]])
    assert reader.files == ['a.jpg', 'b.jpg'] and '2 of 3 rows have split=train.' in reader.notes
    check(read(SPLIT, reader.class_names, label_columns='labels', where='split = val'), ['cat', 'dog'], [[1, 1]])
    check(read('file,labels,fold\na.jpg,cat,1\nb.jpg,dog,2\n', where='fold=2'), ['dog'], [[1]])
    fails(
        "no row has 'test' in column 'split', which has 'train', 'val'",
        read,
        SPLIT,
        label_columns='labels',
        where='split=test',
    )
    fails("no column 'part'", read, SPLIT, label_columns='labels', where='part=train')
    fails('not of the form COLUMN=VALUE', read, SPLIT, label_columns='labels', where='train')
    whole = 'file,cat,split\na.jpg,1,train\nb.jpg,-1,train\nc.jpg,0,val\n'  # decided on the whole table
    check(read(whole, where='split=train'), ['cat'], [[1], [-1]])


def test_header_of_names_without_extension(read):
    fails("line 1: '000001' may be an image or the name of a column", read, '000001,cat\n000002,dog\n')
    fails("line 1: 'img_1' may be", read, 'img_1,cat\nimg_2,dog\n')
    check(read('id,label\nimg_1,cat\nimg_2,dog\n'), ['cat', 'dog'], [[1, 0], [0, 1]])


# delimiters and encodings


@pytest.mark.parametrize(
    'content, files, class_names',
    [
        ('file;cat;dog\na.jpg;1;0\nb.jpg;0;1\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('file;cat;dog\na.jpg;1,0;0,0\nb.jpg;0,0;1,0\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('file cat dog\na.jpg 1 0\nb.jpg  0  1\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('file cat dog\n"my a.jpg" 1 0\nb.jpg 0 1 \n', ['my a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('2\ncat dog\na.jpg  1 -1\nb.jpg -1  1\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),  # face attributes
        ('cat\tdog\na.jpg\t1\t0\nb.jpg\t0\t1\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('file,cat,dog,\na.jpg,1,0,\nb.jpg,0,1,\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('file,cat,dog\na.jpg,1,0,\nb.jpg,0,1,\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('sep=;\r\nfile;cat;dog\r\na.jpg;1;0\r\nb.jpg;0;1\r\n', ['a.jpg', 'b.jpg'], ['cat', 'dog']),
        ('my photo.jpg,cat\nb.jpg,dog\n', ['my photo.jpg', 'b.jpg'], ['cat', 'dog']),
        ('a.jpg;cat,x\nb.jpg;dog,x\n', ['a.jpg', 'b.jpg'], ['cat', 'dog', 'x']),
        ('a.jpg\tcat,x\nb.jpg\tdog,x\n', ['a.jpg', 'b.jpg'], ['cat', 'dog', 'x']),
    ],
)
def test_delimiters(read, content, files, class_names):
    reader = read(content)
    targets = [[1, 0, 1], [0, 1, 1]] if 'x' in class_names else [[1, 0], [0, 1]]
    check(reader, class_names, targets)
    assert reader.files == files
    for encoding in ('utf-16', 'utf-8-sig', 'utf-32'):
        check(read(content.encode(encoding)), class_names, targets)


def test_delimiters_inside_of_cells(read):
    check(read('001.jpg,cat;person\n002.jpg,cat;dog\n'), ['cat', 'dog', 'person'], [[1, 0, 1], [1, 1, 0]])
    check(read('x.jpg 0 1 0\ny.jpg 1 0 0\n', ['a', 'b', 'c']), ['a', 'b', 'c'], [[0, 1, 0], [1, 0, 0]])
    both = 'file\tx,y\na.jpg\t1,b.jpg\nc.jpg\t0,d.jpg\n'
    fails(
        "line 1: may be split by commas ['file\\tx', 'y'], or by tabs ['file', 'x,y']".replace('\\t', r'\t'), read, both
    )
    fails("line 3: cells separated by semicolons: 2, expected 3", read, 'file;cat;dog\na.jpg;1;0\nb.jpg;1\n')


def test_encodings(read):
    content = names('café', 'dog')
    fails('line 2: not in UTF-8...--encoding cp1252', read, content.encode('latin-1'))
    for encoding in ('latin-1', 'cp1252', 'utf-16-le', 'utf-16'):
        check(read(content.encode(encoding), encoding=encoding), ['café', 'dog'], [[1, 0], [0, 1]])
    fails("line 1: a character that is no text...--encoding utf-16-le", read, names('cat').encode('utf-16-le'))
    fails("--encoding 'nonsense' is unknown", read, content, encoding='nonsense')
    fails("--encoding 'base64' is unknown", read, content, encoding='base64')
    fails(
        "--encoding 'latin-1': the table starts with the mark of utf-8",
        read,
        content.encode('utf-8-sig'),
        encoding='latin-1',
    )


# a row for each image and label

LONG = 'ImageID,Source,LabelName,Confidence\n0a,v,/m/1,1\n0a,v,/m/2,0\n0b,v,/m/2,1\n0c,v,/m/3,0\n'


def test_long(read, folder):
    reader = read(LONG)
    check(reader, ['/m/1', '/m/2', '/m/3'], [[1, 0, -1], [-1, 1, -1], [-1, -1, 0]])
    assert reader.files == ['0a', '0b', '0c']
    assert '4 rows of 3 images; a label without a row is unknown, as some rows have confidence 0.' in reader.notes[1]
    check(read(LONG, unlisted='absent'), ['/m/1', '/m/2', '/m/3'], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    (folder / 'ids.csv').write_text('/m/1,"Tortoise, big"\n/m/2,Container\n/m/3,Ant\n/m/4,Unused\n')
    reader = read(LONG, label_names=folder / 'ids.csv')
    check(reader, ['Ant', 'Container', 'Tortoise, big'], [[-1, 0, 1], [-1, 1, -1], [0, -1, -1]])
    (folder / 'same.csv').write_text('/m/1,Pig\n/m/2,Pig\n/m/3,Ant\n')
    fails("line 2: id '/m/1' has no name, or one that another id has", read, LONG, label_names=folder / 'same.csv')
    fails("line 2: id '/m/9' has no name", read, LONG.replace('/m/1', '/m/9'), label_names=folder / 'ids.csv')
    fails("line 3: '/m/1' of '0a' is both present and absent, see line 2", read, LONG.replace('/m/2,0', '/m/1,0'))
    fails("line 2: column 'Confidence' has '0.7', expected 1 or 0", read, LONG.replace('/m/1,1', '/m/1,0.7'))


def test_long_is_recognised(read):
    content = 'file,label\na.jpg,cat\na.jpg,dog\nb.jpg,cat\na.jpg,cat\nc.jpg,\n'
    reader = read(content)
    check(reader, ['cat', 'dog'], [[1, 1], [1, 0], [0, 0]])
    assert 'a label without a row is absent' in reader.notes[1]
    check(read(content, unlisted='unknown'), ['cat', 'dog'], [[1, 1], [1, -1], [-1, -1]])
    fails("line 3: 'a.jpg' is also on line 2", read, content, table_format='wide')
    check(read(content, ['dog', 'cat'], meaning=reader.meaning), ['dog', 'cat'], [[1, 1], [0, 1], [0, 0]])
    fails('--unlisted is for a row for each image and label', read, names('cat|dog'), unlisted='absent')
    several = names('cat|dog', 'cat')
    fails("'cat|dog' may be...--label-separator '|'", read, several + 'c.jpg,dog\n', table_format='long')
    check(read(several, table_format='long', label_separator='|'), ['cat', 'dog'], [[1, 1], [1, 0]])
    numbers = 'file,label\na.jpg,1\na.jpg,3\nb.jpg,1\n'
    check(read(numbers, table_format='long'), ['1', '3'], [[1, 1], [1, 0]])
    columns = 'file,source,kind\na.jpg,v,cat\na.jpg,v,dog\n'
    fails("may be in any column of 'source', 'kind'. Give --label-column", read, columns, table_format='long')
    check(read(columns, table_format='long', label_columns='kind'), ['cat', 'dog'], [[1, 1]])


def test_long_follows_training(read):
    without = '\n'.join(line for line in LONG.splitlines() if not line.endswith(',0')) + '\n'
    classes = ['/m/1', '/m/2', '/m/3']
    for training, split in ((LONG, without), (without, LONG)):
        meaning = read(training).meaning
        fails('a label without a row is...in the training split...--unlisted', read, split, classes, meaning=meaning)
        assert read(split, classes, meaning=meaning, unlisted='unknown').targets.min() == -1


def test_drop_unlabelled(read):
    reader = read(names('cat', '', 'dog', '-'), drop_unlabelled=True)
    check(reader, ['cat', 'dog'], [[1, 0], [0, 1]])
    assert reader.files == ['a.jpg', 'c.jpg'] and '2 images without a label are left out.' in reader.notes
    check(read(table('1,0', '0,-1', ',0'), drop_unlabelled=True), ['cat', 'dog'], [[1, 0]])


def test_large_tables(read, folder):
    """Time grows with the number of names, not with its square: once 6 s and 90 s."""
    classes = [f'class {i}' for i in range(9605)]
    rows = (f'{i}.jpg,{classes[i % 9605]}|{classes[7 * i % 9605]}' for i in range(10000))
    (folder / 'map.txt').write_text('\n'.join(f'name {i}' for i in range(100000)))
    start = time.process_time()
    reader = read('file,labels\n' + '\n'.join(rows) + '\n')
    assert reader.targets.shape == (10000, 9605) and reader.targets.sum() == 19998 and time.process_time() - start < 5
    start = time.process_time()
    assert len(read_class_map(folder / 'map.txt')) == 100000 and time.process_time() - start < 5


# a matrix written in each form and read back is the same matrix


def write(header, rows, delimiter=','):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return text.getvalue()


def columns_of(files, classes, targets, spell):
    return ['file', *classes], [[file, *map(spell, row)] for file, row in zip(files, targets.tolist())]


def cells_of(files, classes, targets, join):
    present = ([classes[i] for i in np.flatnonzero(row)] for row in targets)
    return ['file', 'labels'], [[file, join(found)] for file, found in zip(files, present)]


def long_of(files, classes, targets, spell):
    rows = [[file, name, spell(value)] for file, row in zip(files, targets) for name, value in zip(classes, row)]
    return ['ImageID', 'LabelName', 'Confidence'], rows


BY_COLUMNS = {
    'numbers': lambda *data: write(*columns_of(*data, str)),
    'floats': lambda *data: write(*columns_of(*data, '{:.1f}'.format)),
    'words': lambda *data: write(*columns_of(*data, lambda value: ('no', 'Yes')[value])),
    'minus': lambda *data: write(*columns_of(*data, lambda value: str(2 * value - 1))),
    'marks': lambda *data: write(*columns_of(*data, lambda value: 'x' * value)),
    'tabs': lambda *data: write(*columns_of(*data, str), '\t'),
    'semicolons': lambda *data: write(*columns_of(*data, str), ';'),
    'blanks': lambda *data: write(*columns_of(*data, str), ' '),
}
FORMS = {
    **BY_COLUMNS,
    'joined': lambda *data: write(*cells_of(*data, '|'.join)),
    'python': lambda *data: write(*cells_of(*data, str)),
    'numpy': lambda *data: write(*cells_of(*data, lambda found: str(np.array(found)))),
    'long': lambda *data: write(*long_of(*data, str)),
    'multi-hot': lambda files, classes, targets: write(['file', 'l'], [[f, str(t)] for f, t in zip(files, targets)]),
}
CLASSES = st.lists(
    st.text(
        st.characters(codec='utf-8', categories=['L', 'N', 'P', 'S', 'Zs'], exclude_characters='|'),
        min_size=1,
        max_size=6,
    ).filter(lambda name: not re.fullmatch('[A-Za-z][A-Za-z _-]+', name)),  # words of headers: ID is no class
    min_size=2,
    max_size=5,
)


@pytest.mark.parametrize('form', FORMS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_read_back(form, data, folder):
    classes = data.draw(CLASSES.map(lambda found: sorted(set(map(clean_name, found)))))
    if len(classes) < 2 or len({name.casefold() for name in classes}) < len(classes) or not all(classes):
        return
    count = data.draw(st.integers(3, 6))
    cells = st.lists(st.integers(0, 1), min_size=len(classes), max_size=len(classes))
    targets = np.array(data.draw(st.lists(cells, min_size=count, max_size=count)), dtype=np.int8)
    targets[:2] = np.eye(2, len(classes), dtype=np.int8)  # so that 'absent' and 'present' both occur
    files = [f'{i}.jpg' for i in range(count)]
    path = folder / 'form.csv'
    path.write_text(FORMS[form](files, classes, targets), encoding='utf-8', newline='')
    for class_names in (classes, None) if form in BY_COLUMNS else (classes,):
        reader = CsvReader(path, folder, class_names)
        assert reader.files == files and reader.class_names == classes
        assert reader.targets.tolist() == targets.tolist()
