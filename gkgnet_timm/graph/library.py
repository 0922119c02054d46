"""Compile a C file for this machine, once: the library is kept in the cache folder, for this user alone."""

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator, List, Optional

from ..runtime import cache_dir, clear_drafts, replacing

__all__ = ['load_library']

DRAFT = 'gkgnet_timm-kernels-'  # folders in which they are compiled
# Nobody reads the flags of floating-point exceptions. To keep them, gcc leaves loops with branches as they are where a
# processor has no AVX-512: GELU takes eight times as long.
FLAGS = ('-O3', '-fno-fast-math', '-fno-trapping-math', '-shared', '-fPIC')
# the first that the compiler takes: that of macOS has no OpenMP, and an older one of it no -march=native
SPEED_FLAGS = (('-march=native', '-fopenmp'), ('-march=native',), ())
# lines of /proc/cpuinfo that say what -march=native stands for; others change from moment to moment
PROCESSOR = r'^(?:vendor_id|cpu|cpu family|model|model name|stepping|flags|Features|CPU \w+|isa|uarch)\s*:.*$'
LONGEST = 60  # seconds that a compiler may take
DIGEST = hashlib.sha256().digest_size


def _describe_processor() -> List[str]:
    """Return text that is the same only for processors that run the same instructions."""
    info = Path('/proc/cpuinfo')
    if info.is_file():
        lines = re.findall(PROCESSOR, info.read_text(encoding='utf-8', errors='replace'), re.MULTILINE)
        return [platform.machine(), *sorted(set(lines))]
    return [platform.machine(), platform.processor(), platform.platform()]


def _identify(command: List[str], source: Path) -> str:
    """Return what decides the content of a library, as hexadecimal digits."""
    parts = [str(SPEED_FLAGS), *FLAGS, *command, *_describe_processor()]
    for word in command:  # a wrapper, such as ccache, and the compiler
        if found := shutil.which(word):
            path = os.path.realpath(found)
            status = os.stat(path)
            parts.append(f'{path} {status.st_size} {status.st_mtime_ns}')
    digest = hashlib.sha256('\n'.join(parts).encode(errors='surrogateescape'))
    digest.update(source.read_bytes())
    return digest.hexdigest()


def _is_ours(status: os.stat_result) -> bool:
    """Whether a file or folder is of this user, and nobody else can write it."""
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _kept_file(key: str) -> Optional[Path]:
    """Return where a library is kept, None if there is no folder to trust."""
    if not hasattr(os, 'getuid'):  # Windows, where modes say nothing
        return None
    try:
        folder = cache_dir() / 'kernels'
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError):  # read-only, a file in its place, no home at all
        return None
    return folder / f'{key}.library' if stat.S_ISDIR(status.st_mode) and _is_ours(status) else None


def _seal(key: str, library: bytes) -> bytes:
    return hashlib.sha256(key.encode() + library).digest()


def _read(path: Path, key: str) -> Optional[bytes]:
    """Return a library that was kept, None if it is not there, or is not what was written for this key."""
    try:
        with open(path, 'rb', opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
                return None
            content = file.read()
    except OSError:
        return None
    library = content[DIGEST:]
    return library if content[:DIGEST] == _seal(key, library) else None


def _keep(path: Path, key: str, library: bytes) -> None:
    """Keep a library if there is room. Otherwise the next process compiles, too."""
    try:
        path.unlink(missing_ok=True)  # its mode would be that of the new one
        with replacing(path, 'wb', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(_seal(key, library) + library)
    except OSError:
        return


@contextmanager
def _in_turn(kept: Optional[Path]) -> Iterator[None]:
    """Wait while another process compiles the same. Where files cannot be locked, both do."""
    from filelock import FileLock, Timeout

    lock = FileLock(kept.with_suffix('.lock'), timeout=LONGEST) if kept else None
    with suppress(OSError, NotImplementedError, Timeout):
        lock and lock.acquire()
    try:
        yield
    finally:
        if lock and lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _compile(command: List[str], source: Path, library: Path) -> None:
    """Compile with the flags for speed that the compiler takes."""
    for speed in SPEED_FLAGS:
        full = [*command, *FLAGS, *speed, str(source), '-o', str(library)]
        done = subprocess.run(full, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST)
        if not done.returncode:
            return
    raise OSError(f'{shlex.join(full)}: {done.stderr.strip() or done.returncode}')


def load_library(compiler: str, source: Path, bind: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    """Load the library of a C file, compiled now or before.

    Only bytes that were checked are loaded, from a copy in a folder of this process: it stays mapped when that is gone.

    Args:
        compiler: Its command, as in CC.
        source: C file.
        bind: Declares the functions of the library.

    Raises:
        OSError, ValueError, AttributeError, subprocess.SubprocessError: If it cannot be compiled, loaded or bound.
    """

    def load(library: Path) -> ctypes.CDLL:
        functions = ctypes.CDLL(str(library))
        bind(functions)
        return functions

    def load_kept(library: Path) -> Optional[ctypes.CDLL]:
        if kept and (content := _read(kept, key)):
            library.write_bytes(content)
            with suppress(OSError):  # it needs a library that is gone, such as that of OpenMP
                return load(library)
        return None

    command = shlex.split(compiler)
    key = _identify(command, source)
    kept = _kept_file(key)
    clear_drafts(tempfile.gettempdir(), DRAFT)
    # Windows keeps a library that is loaded; a later process removes it
    with tempfile.TemporaryDirectory(prefix=DRAFT, ignore_cleanup_errors=True) as folder:
        # each has a name of its own: loaders know files by their names
        if functions := load_kept(Path(folder, 'kept.so')):
            return functions
        with _in_turn(kept):
            if functions := load_kept(Path(folder, 'kept-now.so')):
                return functions
            library = Path(folder, 'compiled.so')
            _compile(command, source, library)
            functions = load(library)
            if kept:
                _keep(kept, key, library.read_bytes())
            return functions
