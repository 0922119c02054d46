"""Install the weights that the authors of GKGNet publish: downloaded, checked and converted once."""

import sys
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Union

from filelock import FileLock, Timeout

from timm.models import PretrainedCfg

from ..runtime import read_json
from .convert import convert
from .drive import download
from .file import find_problem, sha256
from .folder import CONFIG
from .source import GKGNET_FILE, drive_endpoint, installed_file

__all__ = ['install_published', 'verify']


class Source(NamedTuple):
    """Where the authors' file is.

    Attributes:
        file_id: On Google Drive.
        sha256: Of the file, None as long as nobody has contributed it.
    """

    file_id: str
    sha256: Optional[str] = None


SOURCES = {GKGNET_FILE: Source('1TB_UqqFvpQ2bvy_qau0aKP6GoK9Xlix_')}
LICENCE = 'Weights of the authors of GKGNet, https://github.com/jin-s13/GKGNet: free for non-commercial use only.'


def _download(cfg: PretrainedCfg, name: str, folder: Path) -> Path:
    source = SOURCES[cfg.url]
    file = download(source.file_id, folder, name)
    problem = find_problem(file)
    if not problem and source.sha256 not in (None, sha256(file)):
        problem = 'another one than the authors have published, by its SHA-256'
    if problem:
        file.unlink()
        raise ValueError(f'What {drive_endpoint()} sent is {problem}. It was removed; the next try downloads it again.')
    return file


def install_published(cfg: PretrainedCfg, *, class_order: Union[str, Path, None] = None, again: bool = False) -> Path:
    """Download the weights of a tag from their authors, convert them, and keep them for all later models.

    Of several processes one does the work, the others wait and find it done.

    Args:
        cfg: The registered cfg of a tag whose url is in `SOURCES`.
        class_order: File of class names in the order of the outputs, as `class-order` writes it.
        again: Replace what is installed.

    Returns:
        The installed file.

    Raises:
        OSError: If it cannot be downloaded or written. Says why.
        ValueError: If what was downloaded is not the weights.
    """
    target = installed_file(cfg)
    name = f'{cfg.architecture}.{cfg.tag}'
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent.parent / f'.{name}.lock')
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f'Waiting for another process, which installs {name}.', file=sys.stderr)
        lock.acquire()
    try:
        if target.is_file() and not again:
            return target
        file = _download(cfg, name, target.parent.parent)
        try:
            convert(file, target.parent, model=name, class_order=class_order)
        except ValueError:
            file.unlink()
            raise
        file.unlink()
    finally:
        lock.release()
    print(f'{LICENCE}\nInstalled as {target}.', file=sys.stderr)
    return target


def verify(cfg: PretrainedCfg) -> Dict[str, Any]:
    """Compare the installed weights of a tag with what was recorded when they were written.

    Returns:
        What `convert` recorded of the file that the weights are from.

    Raises:
        FileNotFoundError: If the weights, or a record of them, are not there.
        ValueError: If they are others.
    """
    target = installed_file(cfg)
    name = f'{cfg.architecture}.{cfg.tag}'
    if not target or not target.is_file():
        raise FileNotFoundError(f'Weights of {name} are not installed: python -m gkgnet_timm weights install {name}.')
    config = target.with_name(CONFIG)
    record = read_json(config).get('converted_from') if config.is_file() else None
    if not isinstance(record, dict) or not isinstance(record.get('written'), str):
        raise FileNotFoundError(f'{str(target)!r} has no record of its SHA-256 beside it, install it again.')
    expected = SOURCES[cfg.url].sha256 if cfg.url in SOURCES else None
    if record['written'] != sha256(target) or expected not in (None, record.get('sha256')):
        raise ValueError(f'{str(target)!r} is not what was installed, by its SHA-256: install it again.')
    if problem := find_problem(target):
        raise ValueError(f'{str(target)!r} is {problem}: install it again.')
    return record
