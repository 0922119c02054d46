"""Libraries of C files: compiled once, kept for their user alone, compiled anew where what is kept is not trusted."""

import ctypes
import errno
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from forked import fork

from gkgnet_timm import runtime
from gkgnet_timm.graph import cpu, library

pytestmark = pytest.mark.skipif(not shutil.which('gcc'), reason='there is no compiler that is known to have OpenMP')
ANSWER = 'int answer(void) { return %d; }\n'


class Compiler:
    """A compiler that writes down what it is called with, and refuses some flags, as that of macOS does."""

    def __init__(self, folder):
        self.path, self.log = folder / 'compiler', folder / 'log'
        self.refuse()

    def refuse(self, *flags):
        checks = ''.join(f'case " $* " in *" {flag} "*) echo unsupported >&2; exit 1;; esac\n' for flag in flags)
        self.path.write_text(f'#!/bin/sh\necho "$*" >> {self.log}\n{checks}exec gcc "$@"\n')
        self.path.chmod(0o755)
        self.log.unlink(missing_ok=True)

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def compiler(tmp_path):
    return Compiler(tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'kernels'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'answer.c'
    path.write_text(ANSWER % 42)
    return path


def answer(compiler, source, options=''):
    """Load the library, as a new process does, and call it."""

    def bind(functions):
        functions.answer.restype = ctypes.c_int

    return library.load_library(f'{compiler.path} {options}', source, bind).answer()


def kept(cache):
    return [path for path in cache.iterdir() if path.suffix == '.library']


def test_compiled_once_and_kept_for_the_user_alone(compiler, cache, source):
    old = os.umask(0)
    try:
        assert [answer(compiler, source) for _ in range(3)] == [42] * 3
    finally:
        os.umask(old)
    assert len(compiler.calls) == 1
    (path,) = cache.iterdir()
    assert [stat.S_IMODE(each.stat().st_mode) for each in (cache, path)] == [0o700, 0o600]


def other_source(monkeypatch, compiler, source):
    source.write_text(ANSWER % 42 + '/* other */\n')


def other_compiler(monkeypatch, compiler, source):
    compiler.path.write_text(compiler.path.read_text() + '# a newer version\n')


def other_flags(monkeypatch, compiler, source):
    monkeypatch.setattr(library, 'FLAGS', ('-O2', *library.FLAGS[1:]))


def other_processor(monkeypatch, compiler, source):
    monkeypatch.setattr(library, '_describe_processor', lambda: ['flags: avx512f'])


@pytest.mark.parametrize('change', [other_source, other_compiler, other_flags, other_processor])
def test_compiled_anew_for_another(change, compiler, cache, source, monkeypatch):
    answer(compiler, source)
    change(monkeypatch, compiler, source)
    assert answer(compiler, source) == answer(compiler, source) == 42
    assert len(compiler.calls) == len(kept(cache)) == 2
    assert answer(compiler, source, '-DX') == 42 and len(compiler.calls) == 3  # as CC says it


def test_the_processor_is_described_the_same_at_any_moment():
    described = library._describe_processor()
    assert len(described) > 1 and not any('MHz' in line for line in described)
    assert library._describe_processor() == described


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def writable_by_all(path):
    path.chmod(0o666)


def a_link(path):
    path.rename(path.with_suffix('.other'))
    path.symlink_to(path.with_suffix('.other'))


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b'')


@pytest.mark.parametrize('damage', [flip_a_byte, cut_off, empty, writable_by_all, a_link, a_pipe])
def test_what_is_not_as_it_was_written_is_compiled_anew(damage, compiler, cache, source):
    answer(compiler, source)
    damage(kept(cache)[0])
    assert answer(compiler, source) == 42 and len(compiler.calls) == 2
    assert answer(compiler, source) == 42 and len(compiler.calls) == 2
    assert stat.S_IMODE(kept(cache)[0].lstat().st_mode) == 0o600


def test_a_library_of_another_key_is_not_taken(compiler, cache, source):
    answer(compiler, source)
    first = kept(cache)[0]
    source.write_text(ANSWER % 43)
    answer(compiler, source)
    second = next(path for path in kept(cache) if path != first)
    shutil.copyfile(first, second)
    assert answer(compiler, source) == 43 and len(compiler.calls) == 3


def test_what_does_not_load_is_compiled_anew(compiler, cache, source):
    """As a library does whose OpenMP was removed."""
    answer(compiler, source)
    (path,) = kept(cache)
    path.write_bytes(library._seal(path.stem, b'not a library') + b'not a library')
    assert answer(compiler, source) == answer(compiler, source) == 42 and len(compiler.calls) == 2


def of_another(monkeypatch, cache):
    other = os.getuid() + 1
    monkeypatch.setattr(os, 'getuid', lambda: other)


def open_to_all(monkeypatch, cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)


def a_link_to_a_folder(monkeypatch, cache):
    target = cache.parents[1] / 'target'
    target.mkdir(mode=0o700)
    cache.parent.mkdir()
    cache.symlink_to(target)


def a_file_in_its_place(monkeypatch, cache):
    cache.parent.write_text('')


def no_home(monkeypatch, cache):
    def expanduser(path):
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'expanduser', expanduser)


def read_only(monkeypatch, cache):
    def cannot(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    cache.mkdir(0o700, parents=True)
    monkeypatch.setattr(library, 'replacing', cannot)


def windows(monkeypatch, cache):
    monkeypatch.delattr(os, 'getuid')


@pytest.mark.parametrize(
    'folder', [of_another, open_to_all, a_link_to_a_folder, a_file_in_its_place, no_home, read_only, windows]
)
def test_without_a_folder_to_trust_each_process_compiles(folder, compiler, cache, source, monkeypatch, caplog):
    folder(monkeypatch, cache)
    assert answer(compiler, source) == answer(compiler, source) == 42
    assert len(compiler.calls) == 2 and not caplog.records
    assert not cache.is_dir() or not any(cache.iterdir())


def test_processes_at_the_same_time(compiler, cache, source):
    def check():
        assert answer(compiler, source) == 42

    processes = [fork(check) for _ in range(8)]
    assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0] * 8
    assert answer(compiler, source) == 42 and len(compiler.calls) == 1  # by one, for all
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK])
@pytest.mark.filterwarnings('ignore:flock not supported')
def test_files_that_cannot_be_locked(code, compiler, cache, source, monkeypatch):
    """As on some network drives: nobody waits for ever."""

    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr('fcntl.flock', refuse)
    monkeypatch.setattr(library, 'LONGEST', 5)  # an older filelock tries this long
    assert answer(compiler, source) == answer(compiler, source) == 42 and len(compiler.calls) == 1


def test_a_compiler_that_hangs(compiler, cache, source, monkeypatch):
    monkeypatch.setattr(library, 'LONGEST', 0.5)
    compiler.path.write_text('#!/bin/sh\nexec sleep 60\n')
    with pytest.raises(subprocess.TimeoutExpired):
        answer(compiler, source)
    assert not any(cache.iterdir())  # the next process is not kept waiting


def test_threads_that_damage_while_others_read(compiler, cache, source):
    """Whatever another process leaves at any moment, the answer is right."""
    answer(compiler, source)
    (path,) = kept(cache)
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            path.unlink(missing_ok=True)
            path.write_bytes(b'damaged')

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert [answer(compiler, source) for _ in range(5)] == [42] * 5
    finally:
        stop.set()
        thread.join()


def test_drafts_of_killed_processes_are_cleared(compiler, cache, source, tmp_path, monkeypatch):
    monkeypatch.setattr(library.tempfile, 'tempdir', str(tmp_path))
    cache.mkdir(0o700, parents=True)
    drafts = [tmp_path / f'{library.DRAFT}old', cache / f'{runtime.DRAFT}old']
    for draft in drafts:
        draft.mkdir()
        os.utime(draft, (0, 0))
    answer(compiler, source)
    assert not any(draft.exists() for draft in drafts) and not list(tmp_path.glob(f'{library.DRAFT}*'))


@pytest.mark.parametrize(
    'refused, left',
    [
        ((), ['-march=native', '-fopenmp']),
        (('-fopenmp',), ['-march=native']),
        (('-fopenmp', '-march=native'), []),
    ],
)
def test_a_compiler_that_lacks_flags(refused, left, compiler, cache, monkeypatch, caplog):
    """macOS's compiles without OpenMP, and without a warning."""
    compiler.refuse(*refused)
    monkeypatch.setenv('CC', str(compiler.path))
    cpu._load_kernels.cache_clear()
    try:
        kernels = cpu._load_kernels()
        scores = (ctypes.c_float * 100)(*range(100))
        index = (ctypes.c_int64 * 2)()
        kernels.select_largest(ctypes.addressof(scores), 1, 100, 2, ctypes.addressof(index), 4)
    finally:
        cpu._load_kernels.cache_clear()
    assert list(index) == [99, 98] and not caplog.records
    assert [flag for flag in compiler.calls[-1].split() if flag in ('-march=native', '-fopenmp')] == left


def test_the_kernels_need_no_header_of_openmp(tmp_path):
    (tmp_path / 'omp.h').write_text('#error there is no OpenMP\n')
    source, flags = Path(cpu.__file__).with_name('cpu_kernels.c'), ['-Wall', '-Wno-unknown-pragmas', f'-I{tmp_path}']
    run = subprocess.run(['gcc', '-fsyntax-only', *flags, str(source)], capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr
