"""Class order of a published `.data` file, which has no class names, by comparison with COCO's annotations."""

import argparse
import sys
from pathlib import Path
from typing import List, Optional

from ..class_names import COCO_CLASSES
from ..data.class_order import compare_class_order


def main(argv: Optional[List[str]] = None) -> None:
    """Recover the class order of the flags, write it and say how it compares to COCO's."""
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm class-order',
        description='Class names of the columns of a published .data file, one on each line, as --class-map takes '
        'them. The columns are compared with the categories of a COCO json.',
    )
    parser.add_argument('data', metavar='FILE.data', help='published annotation file')
    parser.add_argument('json', metavar='INSTANCES.json', help='COCO annotations of the same images')
    parser.add_argument('--output', metavar='FILE', help='(default: stdout)')
    args = parser.parse_args(argv)
    order = compare_class_order(args.data, args.json)
    text = '\n'.join(order.class_names) + '\n'
    if args.output:
        Path(args.output).write_text(text, encoding='utf-8')
    else:
        sys.stdout.write(text)
    report = sys.stdout if args.output else sys.stderr  # not between the names
    print(
        f'{order.common} images compared, {order.different} labels differ; left out: {order.only_data} images only in '
        f'{args.data!r}, {order.only_coco} only in {args.json!r}.',
        file=report,
    )
    count = len(order.class_names)
    others = sum(a != b for a, b in zip(order.class_names, order.categories))
    verdict = f'are not in the order of ascending COCO id, {others} differ' if others else 'are in ascending COCO id'
    usual = order.class_names == list(COCO_CLASSES)
    remedy = 'as is assumed without --class-map' if usual else 'give the names with --class-map'
    print(f'The {count} columns {verdict}: {remedy}.', file=report)
