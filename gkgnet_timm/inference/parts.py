"""Files of a run by several processes: each writes a part of the output beside it, and the first joins them."""

import glob
import os
import re
from typing import Any, Dict, List, Optional, Sequence, Union

from .prediction_file import read_rows, write_joined
from .prediction_run import check_run, counts_of_joined, remove_run, write_run
from .share import ImageShare, ShardShare

__all__ = ['check_other_parts', 'counts_if_joined', 'join_parts', 'part_names']


def part_names(output: str, count: int) -> List[str]:
    """Names of the parts of an output: `out.part-0-of-2.csv`."""
    stem, suffix = os.path.splitext(output)
    return [f'{stem}.part-{rank}-of-{count}{suffix}' for rank in range(count)]


def check_other_parts(output: str, count: int) -> None:
    """Raise a ValueError if there are parts of another number of processes, which cannot be continued by these."""
    stem, suffix = map(glob.escape, os.path.splitext(output))
    for path in sorted(glob.glob(f'{stem}.part-*-of-*{suffix}')):
        found = re.search(r'\.part-\d+-of-(\d+)', path[len(os.path.splitext(output)[0]) :])
        if found and int(found[1]) != count:
            raise ValueError(
                f'Cannot resume: {path!r} is of {found[1]} processes, this run has {count}. Start {found[1]}, remove '
                'the part, or give another --output.'
            )


def counts_if_joined(output: str, parts: Sequence[str], run: Dict[str, Any]) -> Optional[List[int]]:
    """Return how many rows an output has, and how many of them are of unreadable images, if an earlier run by several
    processes has joined it; None if parts are there to go on with, or nothing.

    Raises:
        ValueError: If the output is not one of several processes, or was made with something else than now.
    """
    if not os.path.exists(output) or any(map(os.path.exists, parts)):
        return None
    counts = counts_of_joined(output)
    if not counts:
        raise ValueError(f'Cannot resume: {output!r} is of one process. Continue with one, or give another --output.')
    check_run(output, run)
    return counts


def join_parts(
    output: str,
    form: str,
    parts: Sequence[str],
    share: Union[ImageShare, ShardShare],
    run: Optional[Dict[str, Any]],
    counts: Sequence[int],
) -> None:
    """Join parts in the order of the images, and remove them.

    Args:
        output: File to write.
        form: csv, json or jsonl.
        parts: Files of the processes, in the order of their ranks.
        share: That of any process.
        run: What made the rows, see `describe_run`.
        counts: How many rows the parts have, and how many of these are of unreadable images.

    Raises:
        ValueError: If a part is not to be seen from here, or the parts have other rows than their processes wrote.
    """
    if missing := next((part for part in parts if not os.path.isfile(part)), None):
        raise ValueError(
            f'{missing!r} is not to be seen by the first process. Give an --output in a folder that all machines '
            'share, or --parts to leave the parts where they are.'
        )
    write_joined(output, form, share.in_order([read_rows(part, form) for part in parts], form), counts[0])
    if run:
        write_run(output, dict(run, joined=counts))
    for part in parts:
        remove_run(part)
