"""Commands of the package: `python -m gkgnet_timm COMMAND ...`."""

import importlib
import sys
from typing import List, Optional

COMMANDS = {
    'train': 'train a model, as train_multilabel.py',
    'validate': 'evaluate a checkpoint, as validate.py',
    'benchmark': 'time and memory of the models against the dense graph',
}


def main(argv: Optional[List[str]] = None) -> None:
    """Run a command. What is wrong with its input ends it with one line on stderr and status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        print('usage: python -m gkgnet_timm COMMAND [--help]\n')
        print('\n'.join(f'  {name:<10} {what}' for name, what in COMMANDS.items()))
        sys.exit(0 if argv[:1] in (['-h'], ['--help']) else 2)
    try:
        importlib.import_module(f'gkgnet_timm.{argv[0]}').main(argv[1:])
    except (FileNotFoundError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
