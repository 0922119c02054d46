#!/usr/bin/env python3
"""Multi-label evaluation. See `python validate.py --help`."""

import sys

from gkgnet_timm.__main__ import main

if __name__ == '__main__':
    main(['validate', *sys.argv[1:]])
