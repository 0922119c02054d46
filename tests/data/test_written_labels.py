"""A matrix of labels, written in a form and read back, is the same matrix."""

import json
import pickle
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gkgnet_timm.class_names import clean_name
from gkgnet_timm.data import CocoReader, PublishedReader, VocReader

CHARACTERS = st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=('C', 'Z'))
NAMES = st.text(CHARACTERS, min_size=1, max_size=6).map(clean_name)  # in the form that readers bring them into
IDS = st.one_of(st.integers(0, 10**12), st.text('abcxyz', min_size=1, max_size=5))


@st.composite
def labels(draw, values):
    """Class names and a matrix (N, L) of values, each class in some image."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    rows = draw(
        st.lists(st.lists(st.sampled_from(values), min_size=len(names), max_size=len(names)), min_size=1, max_size=6)
    )
    return names, np.array([*rows, [1] * len(names)], dtype=np.int8)


def as_text(value, flip):
    return str(value) if flip else value


@settings(max_examples=50, deadline=None)
@given(labels((0, 1)), st.data())
def test_coco(case, data):
    names, matrix = case
    ids = data.draw(st.lists(IDS, min_size=len(names), max_size=len(names), unique_by=str))
    rows = data.draw(st.lists(IDS, min_size=len(matrix), max_size=len(matrix), unique_by=str))
    flips = st.booleans()
    annotations = [
        dict(image_id=as_text(rows[i], data.draw(flips)), category_id=as_text(ids[j], data.draw(flips)))
        for i, j in np.argwhere(matrix)
    ]
    content = dict(
        images=data.draw(st.permutations([dict(id=value, file_name=f'{i}.jpg') for i, value in enumerate(rows)])),
        annotations=data.draw(st.permutations(annotations)),
        categories=data.draw(st.permutations([dict(id=i, name=f' {name} ') for i, name in zip(ids, names)])),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'labels.json')
        path.write_text(json.dumps(content))
        reader = CocoReader(path, folder)
    assert sorted(reader.class_names) == sorted(names)
    reader.take_classes(names)
    assert {name: row.tolist() for name, row in zip(reader.files, reader.targets)} == {
        f'{i}.jpg': row.tolist() for i, row in enumerate(matrix)
    }


@settings(max_examples=25, deadline=None)
@given(labels((0, 1, -1)))
def test_voc(case):
    names, matrix = case
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, 'VOC2020')
        for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
            (root / part).mkdir(parents=True)
        (root / 'ImageSets' / 'Main' / 'all.txt').write_text(''.join(f'{i}\n' for i in range(len(matrix))))
        for i, row in enumerate(matrix):
            objects = ''.join(
                f'<object><name>{escape(name)}</name><difficult>{int(value < 0)}</difficult></object>'
                for name, value in zip(names, row)
                if value
            )
            path = root / 'Annotations' / f'{i}.xml'
            path.write_text(f'<annotation>{objects}</annotation>', encoding='utf-8')
        reader = VocReader(folder, '2020/all')
    assert reader.class_names == sorted(names)
    reader.take_classes(names)
    assert reader.targets.tolist() == matrix.tolist()


@settings(max_examples=25, deadline=None)
@given(labels((0, 1)), st.sampled_from([list, tuple, np.array]), st.integers(0, 5))
def test_published(case, kind, protocol):
    names, matrix = case
    records = [dict(file_name=f'{i}.jpg', objects=kind(row.tolist())) for i, row in enumerate(matrix)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'labels.data')
        path.write_bytes(pickle.dumps(records, protocol))
        reader = PublishedReader(path, folder, names)
    assert reader.class_names == names and reader.targets.tolist() == matrix.tolist()
