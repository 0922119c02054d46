"""Commands of the package: `python -m gkgnet_timm COMMAND ...`."""

import difflib
import importlib
import os
import sys
from typing import List, Optional

from .data import BadImageError
from .training.epoch import TrainingError

COMMANDS = {
    'train': 'train a model, as train_multilabel.py',
    'validate': 'evaluate a checkpoint, as validate.py',
    'predict': 'labels of images',
    'check-data': 'count images and classes of a data set and read all of its images',
    'class-order': 'class names of a published .data file by comparison with COCO',
    'convert': 'published or trained weights as a folder that timm loads, or as its pretrained ones',
    'push': 'upload such a folder to the Hugging Face Hub',
    'benchmark': 'time and memory of inference, training and loading',
}


def main(argv: Optional[List[str]] = None) -> None:
    """Run a command. What is wrong with its input ends it with one line on stderr and status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:  # files that are opened would take its place, and what is printed end up in them
        print('error: stdout is closed, send it to a file or to /dev/null', file=sys.stderr)
        sys.exit(2)
    if not argv or argv[0] in ('-h', '--help'):
        print('usage: python -m gkgnet_timm COMMAND [--help]\n')
        print('\n'.join(f'  {name:<11}  {what}' for name, what in COMMANDS.items()))
        sys.exit(0 if argv else 2)
    if argv[0] not in COMMANDS:
        similar = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        expected = f'{similar[0]!r}?' if similar else f'expected one of {", ".join(COMMANDS)}'
        print(f'error: unknown command {argv[0]!r}, {expected}', file=sys.stderr)
        sys.exit(2)
    try:
        importlib.import_module(f'gkgnet_timm.commands.{argv[0].replace("-", "_")}').main(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing it would fail again
        sys.exit(141)
    except (OSError, ValueError, BadImageError, TrainingError) as error:
        message = ' '.join(str(error).split())
        if message.startswith('Caught '):  # in a worker process: its traceback, then 'name.of.Error: message'
            message = str(error).strip().splitlines()[-1].partition(': ')[2]
        print(f'error: {message or type(error).__name__}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
