"""Flags of `predict`."""

import argparse

from ...inference.prediction_file import FORMATS
from ...runtime import command_line
from .groups import (
    FlagParser,
    add_device_flags,
    add_model_flags,
    add_reading_flags,
    add_threshold_flag,
    add_workers_flag,
)

_DESCRIPTION = (
    'Label images, highest score first. Every image gets a row: csv has the columns file, labels and scores, separated '
    'by ";", and error; json is a list of {"file", "labels": [{"label", "score"}, ...]}, jsonl has one of them on each '
    'line. An image that cannot be read has "error" in place of labels and is reported on stderr; the rest is done, '
    'and the exit status is 1.'
)


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(prog=command_line('predict'), description=_DESCRIPTION)
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGES',
        help='images, glob patterns (** for any folders), folders, which are searched to any depth, or .txt files with '
        'a path on each line or COCO files (.json), their paths relative to the current folder; images, '
        'patterns and folders may be URLs, such as s3://, gs:// and hf://, https:// ones of single images; or streams: '
        'wds/PATH-{000..009}.tar, tars of webdataset, and hfds/NAME, a data set of the Hugging Face Hub or its folder',
    )
    parser.add_argument('--split', metavar='NAME', help='of hfds/ (default: the only one)')
    parser.add_argument(
        '--input-key',
        metavar='KEY',
        help='image of wds/, such as jpg, or column of hfds/ (default: the only one)',
    )
    add_model_flags(
        parser,
        'any timm model',
        'checkpoint of train_multilabel.py, from which all else about the model is read; or weights for --model, '
        'such as the published ones',
    )
    add_reading_flags(parser.add_argument_group('reading of images'))
    group = parser.add_argument_group('labels')
    add_threshold_flag(group, '; none with --topk')
    group.add_argument(
        '--topk', type=int, metavar='N', help='the N best labels of an image, with --threshold at most N'
    )
    group.add_argument('--all-scores', action='store_true', help='all labels with their scores')
    group = parser.add_argument_group('output')
    group.add_argument(
        '--output', metavar='FILE', help='(default: stdout; needed under torchrun, which shares the images out)'
    )
    group.add_argument(
        '--parts', action='store_true', help='leave the part of each process, FILE.part-0-of-2.csv, as it is'
    )
    group.add_argument(
        '--embeddings', metavar='FILE.npz', help='also write files and features (N, D) before the classifier'
    )
    group.add_argument(
        '--sidecar', action='store_true', help='also write the labels of a.jpg to a.txt beside it, separated by ", "'
    )
    group.add_argument(
        '--format',
        choices=FORMATS,
        help='(default: by the suffix of --output; on stdout, table in a terminal, else jsonl)',
    )
    group.add_argument(
        '--resume',
        action='store_true',
        help='continue an interrupted --output in csv or jsonl, skipping images that have a row; give all other flags '
        'as before, and under torchrun as many processes',
    )
    add_device_flags(parser)
    parser.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    add_workers_flag(parser)
    parser.set_defaults(amp_dtype='bfloat16', on_bad_image='skip')
    return parser
