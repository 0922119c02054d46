#!/usr/bin/env python3
"""Multi-label training. See `python train_multilabel.py --help`."""

import sys

from gkgnet_timm.__main__ import main

if __name__ == '__main__':
    main(['train', *sys.argv[1:]])
