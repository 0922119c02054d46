"""COCO files of other tools: what is read, and what is refused in one line."""

import json

import numpy as np
import pytest
from conftest import save_image

from gkgnet_timm.commands.check_data import main as check_data
from gkgnet_timm.data import CocoReader, create_dataset, open_split

IMAGES = [dict(id=1, file_name='1.jpg'), dict(id=2, file_name='2.jpg'), dict(id=3, file_name='3.jpg')]
CATEGORIES = [dict(id=1, name='cat'), dict(id=2, name='dog'), dict(id=5, name='cow')]
PAIRS = [(1, 1), (1, 2), (2, 5)]
TARGETS = [[1, 1, 0], [0, 0, 1], [0, 0, 0]]


def annotations_of(pairs):
    return [dict(image_id=image_id, category_id=category_id) for image_id, category_id in pairs]


@pytest.fixture
def write(tmp_path):
    """Write a json of these lists. None leaves a list out."""
    for i in range(1, 4):
        save_image(tmp_path / f'{i}.jpg', i)

    def write(images=IMAGES, annotations=PAIRS, categories=CATEGORIES, name='train.json', encoding='utf-8', **more):
        if annotations and isinstance(annotations[0], tuple):
            annotations = annotations_of(annotations)
        content = dict(images=images, annotations=annotations, categories=categories, **more)
        text = json.dumps({key: value for key, value in content.items() if value is not None}, ensure_ascii=False)
        (tmp_path / name).write_bytes(text.encode(encoding, 'surrogatepass'))
        return tmp_path / name

    return write


def read(path, **options):
    return CocoReader(path, path.parent, **options)


def opened(path, **options):
    return create_dataset('coco', path.parent, path.name, **options)


def fails(message, make, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=message) as raised:
        make(*args, **kwargs)
    assert '\n' not in str(raised.value) and len(str(raised.value)) < 2000


# what is needed and what is not


def test_only_ids_and_names_are_needed(write):
    reader = read(write())
    assert reader.targets.tolist() == TARGETS and reader.class_names == ['cat', 'dog', 'cow']
    assert reader.files == ['1.jpg', '2.jpg', '3.jpg'] and np.isnan(reader.areas).all() and reader.notes == []


@pytest.mark.parametrize(
    'image_ids, category_ids, pairs',
    [
        (('1', '2', '3'), (1, 2, 5), PAIRS),
        ((1, 2, 3), ('1', '2', '5'), PAIRS),
        ((1, 2, 3), (1, 2, 5), [('1', '1'), ('1', 2), ('2', '5')]),
        ((1, 2, 3), (1, 2, 5), [('0001', '01'), (' 1', 2.0), (2.0, '5')]),
        (('001', '002', '003'), (1, 2, 5), PAIRS),
        ((1.0, 2.0, 3.0), (1, 2, 5), PAIRS),
        (('a-1', 'b', 'c'), ('x', 'y', 'z'), [('a-1', 'x'), ('a-1', 'y'), ('b', 'z')]),
    ],
)
def test_ids_as_text_and_numbers(write, image_ids, category_ids, pairs):
    images = [dict(image, id=i) for image, i in zip(IMAGES, image_ids)]
    categories = [dict(category, id=i) for category, i in zip(CATEGORIES, category_ids)]
    reader = read(write(images, pairs, categories))
    assert reader.targets.tolist() == TARGETS and reader.class_names == ['cat', 'dog', 'cow']
    assert reader.files == ['1.jpg', '2.jpg', '3.jpg']


@pytest.mark.parametrize(
    'ids, order',
    [
        (['10', '9', '100'], [1, 0, 2]),
        (['010', 9, ' 2 '], [2, 1, 0]),
        (['-1', '3', -20], [2, 0, 1]),
        ([10, 9, 'a'], [1, 0, 2]),
        (['b', '10', '9'], [1, 2, 0]),  # by letters, as one is no number
        (['10', '9', '\u00b2'], [0, 1, 2]),
    ],
)
def test_order_of_ids(ids, order, write):
    images = [dict(image, id=value) for image, value in zip(IMAGES, ids)]
    categories = [dict(category, id=value) for category, value in zip(CATEGORIES, ids)]
    reader = read(write(images, [(ids[0], ids[0])], categories))
    assert reader.files == [IMAGES[i]['file_name'] for i in order]
    assert reader.class_names == [CATEGORIES[i]['name'] for i in order]
    assert np.argwhere(reader.targets).tolist() == [[order.index(0)] * 2]


@pytest.mark.parametrize('area, expected', [(81, 81), (0.5, 0.5), ('81', None), (None, None), (10**400, None)])
def test_areas(write, area, expected):
    annotations = [dict(annotation, area=area) for annotation in annotations_of(PAIRS)]
    reader = read(write(annotations=annotations))
    expected = np.where(np.array(TARGETS) > 0, np.nan if expected is None else expected, np.nan)
    assert np.array_equal(reader.areas, expected, equal_nan=True)
    reader.take_classes(['x', 'cow', 'dog', 'cat'])
    assert np.array_equal(reader.areas[:, 1:], expected[:, ::-1], equal_nan=True) and np.isnan(reader.areas[:, 0]).all()
    assert reader.targets[:, 1:].tolist() == np.array(TARGETS)[:, ::-1].tolist() and not reader.targets[:, 0].any()


@pytest.mark.parametrize(
    'keys, file',
    [
        (dict(coco_url='http://images.cocodataset.org/train2017/2.jpg'), '2.jpg'),
        (dict(coco_url='https://x.org/a%20b/2.jpg?size=3'), '2.jpg'),
        (dict(path='/datasets/mine/2.jpg'), '2.jpg'),
        (dict(path='C:\\mine\\2.jpg'), '2.jpg'),
        (dict(file_name='', path='2.jpg'), '2.jpg'),
        (dict(file_name=None, path='2.jpg'), '2.jpg'),
        (dict(file_name=2), '2.jpg'),
    ],
)
def test_file_name_from_elsewhere(write, keys, file):
    assert read(write([IMAGES[0], dict(id=2, **keys)])).files == ['1.jpg', file]


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32', 'utf-8'])
def test_encodings(write, encoding):
    reader = read(write(categories=[dict(id=1, name=' Kätzchen\t'), *CATEGORIES[1:]], encoding=encoding))
    assert reader.class_names == ['Kätzchen', 'dog', 'cow'] and reader.targets.tolist() == TARGETS


# roots and empty classes


@pytest.mark.parametrize(
    'categories',
    [
        [dict(id=0, name='cat'), *CATEGORIES],
        [dict(id=0, name='cat', supercategory='none'), *(dict(c, supercategory='cat') for c in CATEGORIES)],
        [*(dict(c, supercategory='cow') for c in CATEGORIES), dict(id=9, name='cow ', supercategory='none')],
        [dict(id='0', name='dog', supercategory=''), *CATEGORIES],
    ],
)
def test_root_with_the_name_of_a_class(write, categories):
    for annotations in (PAIRS, PAIRS[1:2]):  # its class may have no annotation, either
        reader = read(write(annotations=annotations, categories=categories))
        assert reader.class_names == ['cat', 'dog', 'cow'] and reader.targets.sum() == len(annotations)
        assert len(reader.notes) == 1 and 'the root of a class of this name, is left out' in reader.notes[0]


@pytest.mark.parametrize(
    'categories, ids',
    [
        ([*CATEGORIES, dict(id=7, name='cat')], '1, 7'),
        ([*CATEGORIES, dict(id='7', name='cat')], "1, '7'"),
        ([*CATEGORIES, dict(id=7, name=' cat ')], '1, 7'),
        ([dict(id=0, name='cat'), dict(id=7, name='cat'), *CATEGORIES], '0, 7, 1'),
    ],
)
def test_duplicate_names_say_their_ids(write, categories, ids):
    fails(f"train.json'.* names class 'cat' twice, by ids {ids}", read, write(categories=categories))


ROOTED = [dict(id=0, name='animals', supercategory='none'), *CATEGORIES]


def test_empty_classes_are_reported_and_dropped(write, capsys):
    path = write(categories=ROOTED)
    write(categories=ROOTED, name='val.json', annotations=[(3, 2)])
    kept = open_split('coco', path.parent, 'train.json')
    assert kept.class_names == ['animals', 'cat', 'dog', 'cow']
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith('4 classes of 0 to 1 images, 1 without any')
    assert printed[1].startswith("Warning: no image has class 'animals'. ") and '--drop-empty-classes' in printed[1]
    train = open_split('coco', path.parent, 'train.json', drop_empty_classes=True)
    assert train.class_names == ['cat', 'dog', 'cow'] and train.targets().tolist() == TARGETS
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith('3 classes of 1 to 1 images')
    assert printed[1:] == ["Left out, as no image has it: 'animals'."]
    val = open_split('coco', path.parent, 'val.json', class_names=train.class_names, drop_empty_classes=True)
    assert val.class_names == train.class_names and val.targets().tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    write(categories=ROOTED, name='val.json', annotations=[(3, 0)])
    fails(
        "val.json' has classes .* does not know: 'animals'",
        *(open_split, 'coco', path.parent, 'val.json'),
        class_names=train.class_names,
        drop_empty_classes=True,
    )


def test_check_data_drops_empty_classes(write, capsys):
    folder = write(categories=ROOTED).parent
    write(categories=ROOTED, name='val.json', annotations=[(3, 2)])
    flags = ['--dataset', 'coco', '--data-dir', str(folder), '--split', 'train.json', 'val.json', '-j', '0']
    check_data(flags)
    assert capsys.readouterr().out.count('  animals ') == 2
    check_data([*flags, '--drop-empty-classes'])
    printed = capsys.readouterr().out
    assert '  animals ' not in printed and printed.count('  cow ') == 2


def test_all_classes_empty(write):
    fails('names no class', opened, write(annotations=[]), drop_empty_classes=True)


# names of the training split


@pytest.mark.parametrize(
    'categories, pairs, expected',
    [
        (CATEGORIES, PAIRS, TARGETS),
        ([dict(id=90, name='cow'), dict(id=91, name='dog'), dict(id=92, name='cat')], [(1, 90), (3, 92)], 0),
        ([dict(id=1, name='dog')], [(2, 1)], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ([dict(id='b', name=' dog'), dict(id='a', name='cow')], [(2, 'b')], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    ],
)
def test_categories_are_matched_by_name(write, categories, pairs, expected):
    dataset = opened(write(annotations=pairs, categories=categories), class_names=['cat', 'dog', 'cow'])
    assert dataset.class_names == ['cat', 'dog', 'cow']
    assert dataset.targets().tolist() == (expected or [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    missing = {'cat', 'dog', 'cow'} - {category['name'].strip() for category in categories}
    assert len(dataset.reader.notes) == bool(missing)
    assert all(f'{name!r}' in dataset.reader.notes[0] for name in missing)


def test_names_are_in_one_unicode_form(write):
    path = write(categories=[dict(id=1, name='e\u0301cu'), dict(id=2, name=' dog '), dict(id=5, name='cow')])
    assert read(path).class_names == ['\u00e9cu', 'dog', 'cow']
    assert opened(path, class_names=['cow', '\u00e9cu', 'dog']).reader.targets.tolist() == [
        [0, 1, 1],
        [1, 0, 0],
        [0] * 3,
    ]


def test_names_that_the_training_does_not_know(write):
    path = write()
    fails(
        r"train.json' has classes .* does not know: 'cat', 'cow'. Only known there: 'sheep', 'Cat'\.",
        *(opened, path),
        class_names=['sheep', 'Cat', 'dog'],
    )
    fails("does not know: 'cow'. Correct", opened, path, class_names=['dog', 'cat'])
    many = [dict(id=i, name=f'class {i}') for i in range(100)]
    fails("'class 7' and 92 more", opened, write(annotations=[], categories=many), class_names=['cat'])


# federated annotations


LVIS = [
    dict(IMAGES[0], neg_category_ids=[5], not_exhaustive_category_ids=[1]),
    dict(IMAGES[1], neg_category_ids=[]),
    IMAGES[2],
]


def test_lvis(write):
    path = write(LVIS)
    reader = read(path)
    expected = [[1, 1, 0], [-1, -1, 1], [-1, -1, -1]]
    assert reader.targets.tolist() == expected and 'as in LVIS' in reader.notes[0]
    reader.take_classes(['cow', 'sheep', 'dog', 'cat'])  # nobody has looked for sheep
    assert reader.targets.tolist() == [[0, -1, 1, 1], [1, -1, -1, -1], [-1, -1, -1, -1]]
    assert read(path, drop_unlabelled=True).files == ['1.jpg', '2.jpg']
    only = read(write([dict(IMAGES[0], not_exhaustive_category_ids=['2'])], annotations=[]))
    assert only.targets.tolist() == [[-1, -1, -1]]


def test_lvis_in_check_data(write, capsys):
    path = write(LVIS)
    check_data(['--dataset', 'coco', '--data-dir', str(path.parent), '--split', path.name, '-j', '0'])
    assert '; 5 labels unknown\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    'key, ids, message',
    [
        ('neg_category_ids', [99], r'image number 1 has neg_category_ids \[99\], expected ids of categories'),
        ('neg_category_ids', 5, 'image number 1 has neg_category_ids 5, expected'),
        ('not_exhaustive_category_ids', [[1]], r'not_exhaustive_category_ids \[\[1\]\], expected'),
        ('neg_category_ids', [1], 'image 1 has annotations of category 1, which is in its neg_category_ids'),
    ],
)
def test_lvis_errors(write, key, ids, message):
    fails(message, read, write([dict(IMAGES[0], **{key: ids}), *IMAGES[1:]]))


# what is refused


@pytest.mark.parametrize(
    'lists, message',
    [
        (dict(annotations=None), "has no 'annotations', so its images have no labels.* predict"),
        (dict(images=None), "its 'images' are None, expected a list"),
        (dict(categories=None), "its 'categories' are None, expected a list"),
        (dict(images={'1': '1.jpg'}), r"its 'images' are \{'1': '1.jpg'\}, expected a list"),
        (dict(annotations='none'), "its 'annotations' are 'none', expected a list"),
        (dict(images=['1.jpg']), "number 1 of its 'images' is '1.jpg', expected an object"),
        (dict(annotations=[(4, 1)]), 'annotation number 1 has image_id 4 and category_id 1, but one of them is not'),
        (dict(annotations=[('4', 1)]), "annotation number 1 has image_id '4' and"),
        (dict(annotations=[(1, '3')]), "category_id '3'"),
        (dict(annotations=[([1], 1)]), r'image_id \[1\]'),
        (dict(annotations=[dict(image_id=1)]), 'category_id None'),
        (dict(annotations=[(float('nan'), 1)]), 'image_id nan'),
        (dict(images=[dict(file_name='1.jpg')]), 'image number 1 has id None, expected a number or text'),
        (dict(images=[dict(id=True, file_name='1.jpg')]), 'image number 1 has id True'),
        (dict(images=[dict(id=1.5, file_name='1.jpg')]), 'image number 1 has id 1.5'),
        (dict(images=[dict(id=1)]), 'image number 1 has no file name: file_name None, coco_url None, path None'),
        (dict(images=[dict(id=1, file_name=['1.jpg'])]), r"image number 1 has no file name: file_name \['1.jpg'\]"),
        (dict(images=[*IMAGES, dict(id='1', file_name='2.jpg')]), "image id '1' is listed twice, also as 1"),
        (dict(categories=[*CATEGORIES, dict(id=2, name='x')]), 'category id 2 is listed twice'),
        (dict(categories=[dict(id=1, name=['cat'])]), r"category number 1 has name \['cat'\], expected text"),
        (dict(categories=[*CATEGORIES, dict(id=9, name=' ')]), 'has an empty class name'),
        (dict(categories=[dict(id=1, name='a\ud800')]), r"has class name 'a\\ud800' with half a character"),
        (dict(annotations=[(True, 1)]), 'annotation number 1 has image_id True and category_id 1'),
        (dict(annotations=[(1, True)]), 'category_id True'),
        (dict(categories=[dict(id=False, name='cat')]), 'category number 1 has id False'),
        (dict(images=[dict(IMAGES[0], neg_category_ids=[True])]), r'has neg_category_ids \[True\]'),
    ],
)
def test_what_is_refused(write, lists, message):
    fails(message, read, write(**{'annotations': [], **lists}))
    fails('train.json', read, write(**{'annotations': [], **lists}))


def test_ids_in_messages_differ_by_type(write):
    for value, shown in ((9, '9'), ('9', "'9'"), (10**300, '10')):
        fails(f'image_id {shown}', read, write(annotations=[(value, 1)]))


def test_nested_values_in_messages(write):
    value = ['x' * 10**6] * 10
    for _ in range(300):
        value = [value]
    fails('image_id', read, write(annotations=[(value, 1)]))


def test_classes_that_differ_in_case_are_named(write, capsys):
    path = write(categories=[dict(id=1, name='cat'), dict(id=2, name='Cat'), dict(id=3, name='dog')], annotations=[])
    open_split('coco', path.parent, 'train.json')
    assert "Warning: classes 'cat', 'Cat' differ in case only." in capsys.readouterr().out
    open_split('coco', path.parent, 'train.json', class_names=['dog', 'Cat', 'cat'])
    assert 'case only' not in capsys.readouterr().out
