"""Small tables, and what is expected of their readers."""

import re

import numpy as np
import pytest


def table(*rows, header='file,cat,dog'):
    """A table of the images a.jpg, b.jpg, ... with these cells."""
    lines = [f'{name}.jpg,{row}' for name, row in zip('abcdefgh', rows)]
    return '\n'.join([header, *lines]) + '\n'


def names(*rows):
    return table(*rows, header='file,labels')


def check(reader, class_names, targets):
    assert (reader.class_names, reader.targets.tolist()) == (class_names, targets)
    assert reader.targets.dtype == np.int8


def fails(message, read, *args, **options):
    """The error names the file and has every part of the message that '...' separates, in one line."""
    with pytest.raises(ValueError) as caught:
        read(*args, **options)
    text = str(caught.value)
    assert '\n' not in text and "table.csv'" in text
    assert re.search('.*'.join(map(re.escape, message.split('...'))), text), text
