"""Flags of `validate`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, add_evaluation_flags


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('validate'),
        description='Evaluate models on a labelled split. Options you omit are read from the checkpoint, so the '
        'metrics match those of training.',
    )
    add_evaluation_flags(parser, takes_several=True)
    group = parser.add_argument_group('result')
    group.add_argument(
        '--threshold',
        default='0.5',
        metavar='T',
        help='lowest score of a predicted label, or a file of --calibrate (default: %(default)s)',
    )
    group.add_argument('--calibrate', metavar='FILE', help='write the thresholds of highest F1 on this split')
    group.add_argument('--results-file', metavar='FILE', help='write the result')
    group.add_argument('--results-format', choices=('json', 'csv'), help='(default: by the suffix of the file)')
    group.add_argument('--metrics-by-class', metavar='FILE', help='write a csv with a row for each class')
    group.add_argument('--scores-out', metavar='FILE', help='write scores, targets, files and classes (npz)')
    group.add_argument('--scores-in', metavar='FILE', help='evaluate such a file, without a model')
    group.add_argument('--plots', metavar='DIR', help='draw precision over recall, AP by class and co-occurrence')
    group.add_argument('--report', metavar='DIR', help='write a page of figures, curves and mistakes to DIR/index.html')
    return parser
