"""Tables that could be read in two ways: the right one is taken and said, or both are named."""

import time

import pytest
from tables import check, fails, names, table

from gkgnet_timm.data.readers.table import CsvReader


def test_first_line_of_images_without_extension_is_no_header(read, tmp_path, monkeypatch):
    for name in ('0a3f', 'b2c1', 'ffee'):
        (tmp_path / f'{name}.jpg').touch()
    path = tmp_path / 'table.csv'
    path.write_text('0a3f,1,0\nb2c1,0,1\nffee,1,1\n')
    with pytest.raises(ValueError, match="line 1: '0a3f' may be an image or the name of a column"):
        CsvReader(path, tmp_path)
    path.write_text('name,cat,dog\n0a3f,1,0\nb2c1,0,1\n')
    check(CsvReader(path, tmp_path), ['cat', 'dog'], [[1, 0], [0, 1]])
    path.write_text('0a3f,cat,dog\nb2c1,0,1\n')
    check(CsvReader(path, tmp_path, image_column='0a3f'), ['cat', 'dog'], [[0, 1]])


def test_classes_that_differ_in_case_are_not_merged_in_one(read):
    for content in (names('cat', 'Cat'), table('1,0', header='file,cat,Cat')):
        fails(
            "--ignore-case: classes 'cat' and 'Cat' of the training split",
            read,
            content,
            ['cat', 'Cat'],
            ignore_case=True,
        )
    check(read(names('cat', 'Cat'), ['cat', 'Cat']), ['cat', 'Cat'], [[1, 0], [0, 1]])
    fails('Rename one, or make one column of them', read, table('1,0', header='file,cat,Cat'), ignore_case=True)


@pytest.mark.parametrize('row', ["['1', '0', '1']", '["1", "0", "1"]', "['1' '0' '1']"])
def test_multi_hot_lists_of_numbers_in_quotes(read, row):
    content = names(
        f'"{row.replace(chr(34), chr(34) * 2)}"', f'"{row.replace(chr(34), chr(34) * 2).replace("0", "1")}"'
    )
    check(read(content, ['a', 'b', 'c']), ['a', 'b', 'c'], [[1, 0, 1], [1, 1, 1]])
    fails('lists of 3 numbers, without names', read, content)


@pytest.mark.parametrize(
    'rows, targets', [(('[""1""]', '[""0"", ""1""]'), [[0, 1], [1, 1]]), (("['1']", "['0']"), [[0, 1], [1, 0]])]
)
def test_lists_of_ids_in_quotes(read, rows, targets):
    check(read(names(*(f'"{row}"' for row in rows))), ['0', '1'], targets)


def test_names_beside_a_column_that_may_be_a_confidence(read):
    content = table('cat|dog,1', 'cat,0', header='file,labels,verified')
    fails("'cat|dog' may be several names...--label-column 'labels'...--table-format long", read, content)
    check(read(content, label_columns='labels'), ['cat', 'dog'], [[1, 1], [1, 0]])
    long = 'file,label,confidence\na.jpg,cat;dog,1\na.jpg,bird,1\nb.jpg,bird,0\n'
    fails("'cat;dog' may be one name or several", read, long)
    check(read(long, label_separator=';'), ['bird', 'cat', 'dog'], [[1, 1, 1], [0, -1, -1]])
    check(read(long, label_separator=''), ['bird', 'cat;dog'], [[1, 1], [0, -1]])
    check(read(long, ['bird', 'cat;dog']), ['bird', 'cat;dog'], [[1, 1], [0, -1]])


def test_two_classes_of_these_names_are_no_long_table(read):
    check(read(table('1,0', '0,1', header='file,label,value')), ['label', 'value'], [[1, 0], [0, 1]])


@pytest.mark.parametrize('column', ['conf', 'Score', 'is_present', 'exists'])
def test_names_of_the_column_of_confidence(read, column):
    content = f'file,label,{column}\na.jpg,cat,1\na.jpg,dog,0\n'
    check(read(content), ['cat', 'dog'], [[1, 0]])


def test_unknown_labels_that_count_as_positive_are_labels(read):
    content = table('1,0', ',0', '0,0')
    check(read(content, drop_unlabelled=True), ['cat', 'dog'], [[1, 0]])
    check(read(content, drop_unlabelled=True, unknown='positive'), ['cat', 'dog'], [[1, 0], [-1, 0]])


def test_flags_of_names_and_columns_of_classes(read, tmp_path):
    ids = tmp_path / 'ids.csv'
    ids.write_text('/m/1,cat\n/m/2,dog\n')
    content = table('1,0', '0,1', header='file,/m/1,/m/2')
    check(read(content, label_names=ids), ['cat', 'dog'], [[1, 0], [0, 1]])
    fails("id '/m/3' has no name", read, content.replace('/m/2', '/m/3'), label_names=ids)
    fails("--label-separator '|' is for several names in a cell", read, content, label_separator='|')


@pytest.mark.parametrize('nothing', ['--', '---', '\u2013', '\u2014', '\u2212', '?', 'N.A.', '-', 'null'])
def test_what_people_write_where_there_is_nothing(read, nothing):
    check(read(names('cat', nothing)), ['cat'], [[1], [0]])
    check(read(table('1,0', f'{nothing},1')), ['cat', 'dog'], [[1, 0], [-1, 1]])


def test_numbers_that_a_program_took_for_fractions(read):
    check(read(names('1.0', '12.0', 'nan')), ['1', '12'], [[1, 0], [0, 1], [0, 0]])
    check(read(names('1.0', '0.0', '2.0'), ['0', '1', '2']), ['0', '1', '2'], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    check(read(names('1.0', '1.5')), ['1.0', '1.5'], [[1, 0], [0, 1]])
    check(read(names('7.0', '8.0'), ['7.0', '8.0']), ['7.0', '8.0'], [[1, 0], [0, 1]])
    check(read('file,label\na.jpg,7.0\na.jpg,8.0\n'), ['7', '8'], [[1, 1]])


def test_two_signs_between_names(read):
    content = names('"cat,dog"', 'bird;fish')
    fails("line 2: 'cat,dog' may be one name, as ';' separates names elsewhere, or several", read, content)
    check(read(content, label_separator=';'), ['bird', 'cat,dog', 'fish'], [[0, 1, 0], [1, 0, 1]])
    check(read(content, ['cat,dog', 'bird', 'fish']), ['cat,dog', 'bird', 'fish'], [[1, 0, 0], [0, 1, 1]])


def test_single_quotes(read):
    check(read("'file','label'\n'a.jpg','cat'\n'b.jpg',''\n"), ['cat'], [[1], [0]])
    check(read(names("'cat'", "'hot dog'")), ['cat', 'hot dog'], [[1, 0], [0, 1]])
    check(read(names("'cat'", "dog's")), ["'cat'", "dog's"], [[1, 0], [0, 1]])


@pytest.mark.parametrize('header', ['index', 'id', '#', ''])
@pytest.mark.parametrize('start', ['0', '1', '0.0'])
def test_running_numbers_in_front(read, header, start):
    numbers = [start, start.replace('1', '2').replace('0', '1', 1)]
    content = f'{header},file,cat\n{numbers[0]},a.jpg,1\n{numbers[1]},b.jpg,0\n'
    check(read(content), ['cat'], [[1], [0]])


def test_blanks_after_commas_do_not_separate_cells(read):
    fails('cells separated by commas: 3, expected 2', read, 'file,label\na.jpg,cat, dog\n')
    fails('cells separated by commas: 3, expected 2', read, 'a.jpg, cat\nb.jpg,cat, dog\n')


def test_comments_on_top(read):
    check(read('# made by hand\n# on Monday, late, and again\nfile,cat\na.jpg,1\n'), ['cat'], [[1]])
    check(read('#,file,cat\n0,a.jpg,1\n'), ['cat'], [[1]])


@pytest.mark.parametrize('content', ['a.jpg\nb.jpg\n', 'file,cat\na.jpg\n', 'file|cat\na.jpg|x\n'])
def test_lines_of_one_cell(read, content):
    fails('is not a file name and its labels, separated by commas, tabs, semicolons or blanks', read, content)


def test_long_cells_are_read_at_once(read):
    start = time.process_time()
    read(names('"array(' + ', dtype=' * 8000 + '"'))
    assert time.process_time() - start < 2


@pytest.mark.parametrize('sign', ['#', '~', '.', '\\', '__', '->', '，', '、', ' or ', ' und '])
def test_any_sign_between_known_names(read, sign):
    content = names(f'sky{sign}water', 'sky', 'water')
    fails(f'--label-separator {sign!r} for the classes', read, content)
    check(read(content, label_separator=sign), ['sky', 'water'], [[1, 1], [1, 0], [0, 1]])
    fails(f'All of its parts are: give --label-separator {sign!r}', read, content, ['sky', 'water'])


@pytest.mark.parametrize(
    'rows', [('sky sea', 'sea sky', 'hut'), ('sky:sea', 'sea:hut', 'hut:sky'), ('a and b', 'b and c')]
)
def test_the_same_parts_in_other_places(read, rows):
    fails('may be the one class...or the 2 classes', read, names(*rows))


@pytest.mark.parametrize('rows', [('hot dog', 'dog'), ('fire truck', 'truck'), ('v1.0', 'v1.1'), ('t-shirt', 'shirt')])
def test_names_of_several_words_are_names(read, rows):
    assert read(names(*rows)).class_names == sorted(rows)


@pytest.mark.parametrize('rows', [('1 0 1', '0 0 1'), ('101', '001'), ('01', '10'), ('1_0', '0_0'), ('0-0-1', '1-0-1')])
def test_ones_and_zeros_in_a_cell(read, rows):
    fails('are no class names but 1 and 0 in a cell...--class-map', read, names(*rows))
    check(read(names(*rows), sorted(rows)), sorted(rows), [[int(row == name) for name in sorted(rows)] for row in rows])


def test_ones_and_zeros_that_a_flag_separates(read):
    fails('1 and 0 in a cell. Put each into a column', read, names('1 0 1', '0 0 1'), label_separator=' ')
    check(read(names('10', '11')), ['10', '11'], [[1, 0], [0, 1]])


@pytest.mark.parametrize('number', ['0', '-1', '1', '0.0'])
def test_a_number_among_names(read, number):
    fails(f"{number!r} among names such as 'cat' may be a class, or", read, names(number, 'cat'))
    check(read(names(number, 'cat'), [number, 'cat']), [number, 'cat'], [[1, 0], [0, 1]])


@pytest.mark.parametrize('wrapped', ['tensor([1, 0])', 'torch.tensor([1, 0], dtype=torch.int8)', 'Index([1, 0])'])
def test_lists_of_other_libraries(read, wrapped):
    check(read(names(f'"{wrapped}"', '"[0, 1]"'), ['cat', 'dog']), ['cat', 'dog'], [[1, 0], [0, 1]])
    check(read(names("\"dict_keys(['a', 'b'])\"", 'dict_keys([])')), ['a', 'b'], [[1, 1], [0, 0]])
    check(read(names('bird(male)', 'bird')), ['bird', 'bird(male)'], [[0, 1], [1, 0]])


@pytest.mark.parametrize('column', ['fold', 'is_valid', 'Split', 'id', 'is train'])
def test_columns_that_are_no_labels(read, column):
    content = table('1,0', '0,1', header=f'file,cat,{column}')
    fails(f'line 1: column {column!r} may be a class...--label-columns', read, content)
    check(read(content, label_columns='cat'), ['cat'], [[1], [0]])
    check(read(content, ['cat', column]), ['cat', column], [[1, 0], [0, 1]])
    check(read(content, label_columns=['cat', column]), ['cat', column], [[1, 0], [0, 1]])


def test_characters_that_nobody_sees(read):
    check(read(names('cat\u200b', 'cat', '\ufeffcat', 'c\u00adat')), ['cat'], [[1]] * 4)


def test_a_first_image_of_an_odd_format_is_no_header(read, folder):
    (folder / 'first.xcf').touch()
    fails("'first.xcf' is an image, but not of a format", read, 'first.xcf,cat\nb.jpg,dog\n')
    check(read('file.name,cat\nb.jpg,1\n'), ['cat'], [[1]])


def test_ids_beside_a_class_map(read, tmp_path):
    ids = tmp_path / 'ids.csv'
    ids.write_text('0,cat\n1,dog\n2,cow\n')
    fails('names in a --label-names FILE', read, names('0', '1', '2'), ['cat', 'dog', 'cow'])
    fails('names in a --label-names FILE', read, names('"[0, 2]"', '[1]'), ['cat', 'dog', 'cow'])
    order = ['cow', 'cat', 'dog']
    check(read(names('0', '1', '2'), order, label_names=ids), order, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    check(read(names('0', '1', '1'), order, label_names=ids), order, [[0, 1, 0], [0, 0, 1], [0, 0, 1]])


def test_label_names_in_another_encoding(read, tmp_path):
    ids = tmp_path / 'ids.csv'
    ids.write_bytes('/m/1,Käse\n'.encode('cp1252'))
    with pytest.raises(ValueError, match="ids.csv', line 1: not in UTF-8. .*--encoding cp1252"):
        read(names('/m/1'), label_names=ids)
    check(read(names('/m/1'), label_names=ids, encoding='cp1252'), ['Käse'], [[1]])
    ids.write_text('/m/1,Käse\n', encoding='utf-8')
    check(read(names('/m/1'), label_names=ids, encoding='cp1252'), ['Käse'], [[1]])


def test_utf_16_without_mark_that_is_not_utf_8(read):
    content = names('Käse', 'Öl')
    fails('not in UTF-8. If the table is in UTF-16...--encoding utf-16-le', read, content.encode('utf-16-le'))
    check(read(content.encode('utf-16-le'), encoding='utf-16-le'), ['Käse', 'Öl'], [[1, 0], [0, 1]])


def test_a_long_table_is_read_quickly(read):
    rows = ''.join(f'{i // 10:06},/m/{i * 7 % 601},{i % 2}\n' for i in range(100_000))
    start = time.process_time()
    assert read(f'ImageID,LabelName,Confidence\n{rows}').targets.shape == (10_000, 601)
    assert time.process_time() - start < 2
