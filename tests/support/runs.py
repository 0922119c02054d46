"""Commands on the demo set: a short training run, its results, and errors."""

import csv
import re

import pytest

from gkgnet_timm.__main__ import main

NARROW_MODEL = '--model-kwargs depths=(1,1,1,1) dims=(8,16,24,32) k=3 label_k=3'.split()
TINY = '-c demo --img-size 32 -b 8 --epochs 2 -j 0 --log-interval 1 --device cpu'.split() + NARROW_MODEL


def read_summary(run):
    """Rows of the summary of a run, one for each epoch."""
    with open(run / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def check_one_line(argv, message, capsys):
    """A command ends with status 2 and one line on stderr, in which a pattern is found."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2, argv
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and re.search(message, error), (argv, error)
