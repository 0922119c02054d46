"""What a check of the self-test found: one line with a verdict."""

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch

from ..runtime import cache_dir, one_line

__all__ = ['FAIL', 'NOTE', 'OK', 'Finding', 'Found', 'attempt', 'overall', 'without_paths']

OK, FAIL, NOTE = 'ok', 'FAIL', 'note'
Found = Tuple[str, str, Dict[str, Any]]  # verdict, text, figures
# a path, absolute or from home: not what follows a word, such as img/s
PATH = re.compile(r"""(?<![\w.])~?(?:[A-Za-z]:)?(?:[\\/]+[^\s\\/'":,;()]+)+[\\/]*""")


@dataclass(frozen=True)
class Finding:
    """A line of the self-test.

    Args:
        check: What was checked.
        verdict: OK, FAIL, or NOTE for what is worth knowing and no fault.
        text: The figures in words.
        figures: The figures as data.
    """

    check: str
    verdict: str
    text: str
    figures: Dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f'{self.verdict:<4}  {self.check}: {self.text}'


def without_paths(text: str) -> str:
    """Cut paths down to their last name: they tell of the user and the machine."""
    for folder in (cache_dir(), Path.home(), Path.cwd(), Path(tempfile.gettempdir())):  # these may have spaces
        if folder.parent != folder:
            text = text.replace(str(folder), '~')
    return PATH.sub(lambda path: re.split(r'[\\/]+', path[0].rstrip('\\/'))[-1], text)


def attempt(check: str, function: Callable[..., Found], *args: Any) -> Finding:
    """Run a check. One that stops has failed, unless it stops for lack of memory."""
    try:
        verdict, text, figures = function(*args)
    except Exception as error:  # whatever a kernel, a compiler or a driver raises
        verdict = NOTE if isinstance(error, (torch.OutOfMemoryError, MemoryError)) else FAIL
        text, figures = f'{type(error).__name__}: {one_line(error)}', {}
    return Finding(check, verdict, without_paths(text), figures)


def overall(findings: List[Finding]) -> str:
    """The verdict of all checks in a sentence."""
    count = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in (OK, FAIL, NOTE)}
    said = 'this machine computes correctly' if not count[FAIL] else 'this machine does not compute correctly'
    return f'{FAIL if count[FAIL] else OK}: {said} ({count[OK]} ok, {count[FAIL]} failed, {count[NOTE]} notes)'
