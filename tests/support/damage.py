"""Damage to files, from a seed, and commands that read them."""

import copy
import io
import json
from contextlib import redirect_stderr, redirect_stdout

import yaml

from gkgnet_timm.__main__ import main

STRANGE = [
    None,
    True,
    -1,
    10**9,
    10**400,
    1.5,
    float('nan'),
    'x',
    '',
    '../../x',
    'a\ud800',
    [],
    [[]],
    {},
    {'a': 1},
    [None],
    ['x'] * 3,
]
STRANGE_CELLS = [
    '',
    '-',
    'nan',
    '2',
    '-1',
    '1e400',
    '9' * 400,
    'cat;;dog',
    "['a",
    '[1 0',
    '"',
    'x\0',
    '\ud800',
    '../x',
    'é' * 99,
]


def paths_of(value, path=()):
    """Places of all entries of nested mappings and lists."""
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, (list, tuple)):
        entries = list(enumerate(value))
    else:
        return
    for key, item in entries:
        yield (*path, key)
        yield from paths_of(item, (*path, key))


def changed(value, path, change):
    """A copy of nested mappings and lists with one entry changed: removed, under another key, or of another value."""
    key, *rest = path
    value = list(value) if isinstance(value, tuple) else copy.copy(value)
    if rest:
        value[key] = changed(value[key], rest, change)
    elif change == 'remove':
        del value[key]
    elif change == 'rename' and isinstance(value, dict):
        value[7] = value.pop(key)
    else:
        value[key] = change
    return value


def damage_content(value, rng):
    """Change an entry, mostly one near the top, of which there are few."""
    places = list(paths_of(value))
    depth = rng.choice([1, 1, 2, 2, 3])
    places = [place for place in places if len(place) == depth] or places
    return changed(value, rng.choice(places), rng.choice(['remove', 'rename', *STRANGE]))


def damage_bytes(data, rng):
    """Cut a file, or change some of its bytes."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    data = bytearray(data)
    for _ in range(rng.choice([1, 4, 30])):
        # the head and the end decide how a file is read
        place = rng.choice(
            [rng.randrange(len(data)), rng.randrange(min(200, len(data))), -rng.randint(1, min(99, len(data)))]
        )
        data[place] = rng.randrange(256)
    return bytes(data)


def damage_lines(data, rng):
    """Change a cell of a table or list, or drop or double a line."""
    lines = data.decode().splitlines()
    number = rng.randrange(len(lines))
    kind = rng.choice(['cell', 'cell', 'cell', 'more', 'remove', 'double', 'comma'])
    if kind == 'remove':
        del lines[number]
    elif kind == 'double':
        lines.insert(number, rng.choice(lines))
    elif kind == 'comma':
        lines[number] = lines[number].replace(',', rng.choice([';', '\t', ' ', '', ',,']))
    else:
        cells = lines[number].split(',')
        place = rng.randrange(len(cells))
        cells[place : place + (kind == 'cell')] = [rng.choice(STRANGE_CELLS)]
        lines[number] = ','.join(cells)
    return '\n'.join(lines).encode('utf-8', 'surrogatepass') + b'\n'


def damage_file(path, data, rng):
    """Write a damaged file in the place of a good one, of the kind that its suffix names."""
    if rng.random() < 0.25:
        data = damage_bytes(data, rng)
    elif path.suffix == '.json':
        data = json.dumps(damage_content(json.loads(data), rng)).encode()
    elif path.suffix == '.yaml':
        data = yaml.safe_dump(damage_content(yaml.safe_load(data), rng)).encode()
    else:
        data = damage_lines(data, rng)
    path.write_bytes(data)


def run(argv):
    """Run a command; returns the lines on stderr, and its status."""
    stdout, stderr = io.StringIO(), io.StringIO()
    status = 0
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main([str(item) for item in argv])
        except SystemExit as stopped:
            status = stopped.code
    return stderr.getvalue().splitlines(), status
