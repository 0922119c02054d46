"""Commands of the package: `python -m gkgnet_timm COMMAND ...`."""

import difflib
import importlib
import importlib.metadata
import os
import shutil
import sys
import warnings
from typing import Any, List, Optional

from .runtime import FileWarning, UserError, command_line
from .version import __version__

COMMANDS = {
    'train': 'train a model, as train_multilabel.py',
    'validate': 'evaluate a checkpoint, as validate.py',
    'predict': 'label images',
    'explain': 'draw where the labels of images looked',
    'serve': 'label images on a page in the browser, and for other programs',
    'check-data': 'count the images and classes of a data set and read all of its images',
    'split': 'divide a data set into tables for training, evaluation and test',
    'class-order': 'find the class names of a published .data file, or of the outputs of a model',
    'convert': 'turn published or trained weights into a folder that timm loads, or install them',
    'weights': 'list the pretrained weights, and which are installed',
    'export': 'write a model as ONNX and torch.export files, and compare them with PyTorch',
    'push': 'upload such a folder to the Hugging Face Hub',
    'benchmark': 'measure time and memory of inference, training and loading',
    'selftest': 'check that this machine computes correctly, for a report of a problem',
}


_format_warning = warnings.formatwarning


def _format_in_a_line(message: Any, category: type, *place: Any, **line: Any) -> str:
    """Leave out of warnings about files where in the code they come from, and cover a progress bar on a terminal."""
    text = _format_warning(message, category, *place, **line)
    if issubclass(category, FileWarning):
        text = f'Warning: {message}\n'
    first, end, rest = text.partition('\n')
    # worker processes warn, too, and know nothing of the bar
    return f'\r{first.ljust(shutil.get_terminal_size().columns - 1)}{end}{rest}' if sys.stderr.isatty() else text


def _run(name: str, argv: List[str]) -> None:
    """Run a command. Its flags are parsed first, by a module without torch: help and typing errors take no seconds."""
    module = name.replace('-', '_')
    importlib.import_module(f'gkgnet_timm.commands.flags.{module}').create_parser().parse_args(argv)
    importlib.import_module('gkgnet_timm.models')  # registers them with timm
    importlib.import_module(f'gkgnet_timm.commands.{module}').main(argv)
    sys.stdout.flush()


def main(argv: Optional[List[str]] = None) -> None:
    """Run the command of a command line. Wrong input ends it with one line on stderr and status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:  # the next file to be opened would take its place, and printed text would end up in it
        print('error: stdout is closed, send it to a file or to /dev/null', file=sys.stderr)
        sys.exit(2)
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')  # class names need not fit into the encoding of a terminal
    if not argv or argv[0] in ('-h', '--help'):
        print(f'usage: {command_line("COMMAND")} [--help]\n       {command_line("--version")}\n')
        print('\n'.join(f'  {name:<11}  {what}' for name, what in COMMANDS.items()))
        sys.exit(0 if argv else 2)
    if argv[0] == '--version':
        others = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('torch', 'timm'))
        print(f'gkgnet-timm {__version__}, {others}')
        return
    if argv[0] not in COMMANDS:
        similar = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        expected = f'{similar[0]!r}?' if similar else f'expected one of {", ".join(COMMANDS)}'
        print(f'error: unknown command {argv[0]!r}, {expected}', file=sys.stderr)
        sys.exit(2)
    warnings.formatwarning = _format_in_a_line
    try:
        _run(argv[0], argv[1:])
    except BrokenPipeError:  # the reader of the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing it would fail again
        sys.exit(141)
    except (OSError, ValueError, UserError) as error:
        message = str(error).strip()
        if message.startswith('Caught '):  # in a worker process: its traceback, then 'name.of.Error: message'
            message = message.splitlines()[-1].partition(': ')[2]
        print(f'error: {" ".join(message.split()) or type(error).__name__}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
