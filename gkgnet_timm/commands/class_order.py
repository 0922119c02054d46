"""Recovery of the class order of a published `.data` file, which names no classes."""

import sys
from typing import List, Optional

from ..data.class_order import compare_class_order, describe_order
from ..runtime import replacing
from .flags.class_order import create_parser


def main(argv: Optional[List[str]] = None) -> None:
    """Recover the class order, write it, and print how it compares with that of COCO."""
    args = create_parser().parse_args(argv)
    order = compare_class_order(args.data, args.json)
    text = '\n'.join(order.class_names) + '\n'
    if args.output:
        with replacing(args.output) as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    # the report must not come among the names
    print(describe_order(order, args.data, args.json), file=sys.stdout if args.output else sys.stderr)
