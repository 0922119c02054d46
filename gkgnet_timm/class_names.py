"""Class names of COCO and VOC in their fixed order, and class-map files."""

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import List, Optional, Sequence, Union

__all__ = ['COCO_CLASSES', 'UNVERIFIED', 'VERIFIED', 'VOC_CLASSES', 'check_names', 'clean_name', 'find_problem']
__all__ += ['read_class_map', 'shorten', 'with_note']

# of the notes of a `pretrained_cfg`: whether anything confirms the order of its `label_names`
UNVERIFIED, VERIFIED = 'label_names_verified: false', 'label_names_verified: true'

# in ascending category id
COCO_CLASSES = tuple(
    (
        'person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, '
        'stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, '
        'backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, '
        'baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, '
        'banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, '
        'bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, '
        'refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush'
    ).split(', ')
)

# alphabetical
VOC_CLASSES = tuple(
    (
        'aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, '
        'person, pottedplant, sheep, sofa, train, tvmonitor'
    ).split(', ')
)


def with_note(notes: Optional[Sequence[str]], note: Optional[str]) -> Optional[List[str]]:
    """The notes of a `pretrained_cfg` with another word on the order of its names, or none. None if none are left."""
    notes = [other for other in notes or () if other not in (UNVERIFIED, VERIFIED)]
    return [*notes, *([note] if note else [])] or None


_UNSEEN = re.compile('[\u00ad\u200b\u200e\u200f\u2060\ufeff]')  # characters that have no width, nor a meaning


def clean_name(name: str) -> str:
    """Return a class name in one form: without outer blanks, inner ones single, accents in Unicode's composed form.

    Characters without width, such as a soft hyphen, are left out.
    """
    if name.isascii() and '  ' not in name and name.isprintable():
        return name.strip()
    name = _UNSEEN.sub('', name)
    return unicodedata.normalize('NFC', re.sub(r'[^\S\t]+', ' ', name.strip()))


def shorten(name: str, longest: int) -> str:
    """Return a name in one line, cut in the middle if it is longer, as long names often differ at their ends only."""
    name = ' '.join(name.split())
    half = longest // 2
    return name if len(name) <= longest else f'{name[:half]}…{name[half + 1 - longest :]}'


def check_names(names: Sequence[str], source: Union[str, Path]) -> List[str]:
    """Return class names as a list.

    Raises:
        ValueError: If there are none, or one is empty, occurs twice or has half a character, as JSON can.
    """
    names = [str(name) for name in names]
    if problem := find_problem(names):
        raise ValueError(f'{str(source)!r}: {problem}.')
    return names


def find_problem(names: Sequence[str]) -> Optional[str]:
    """Say what is wrong with class names, None if nothing is."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        return f'names class {min(twice)!r} twice'
    halves = [name for name in names if re.search('[\ud800-\udfff]', name)]
    if halves:  # cannot be written to a file
        return f'has class name {halves[0]!r} with half a character'
    return None if all(names) and names else 'has an empty class name' if names else 'names no class'


def read_class_map(path: Union[str, Path]) -> List[str]:
    """Read class names from a text file with one name a line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, is not text, or has a name twice.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'Class map {str(path)!r} does not exist.')
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'Class map {str(path)!r} is not UTF-8 text with one class name a line.') from error
    return check_names([clean_name(line) for line in lines if line.strip()], path)
