"""What says the version of the package beside the package."""

import re

import yaml
from conftest import ROOT

from gkgnet_timm import __version__


def test_one_version():
    released = re.search(
        r'^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$', (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), re.M
    )
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert released[1] == citation['version'] == __version__
