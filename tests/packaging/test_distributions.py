"""What the wheel and the sdist have in them, and what the extras install."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes

import pytest
from conftest import ROOT

pytest.importorskip('build')
pytest.importorskip('setuptools', minversion='77')

TRACKED = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
PACKAGE = {name for name in TRACKED if name.startswith('gkgnet_timm/')}
SCRIPTS = {'hubconf.py', 'train_multilabel.py', 'validate.py'}


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """Folder with the sdist, and the wheel made from it, of the files that git knows."""
    folder = tmp_path_factory.mktemp('built')
    for name in TRACKED:
        (folder / 'source' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / 'source' / name)
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, folder / 'source']
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture(scope='module')
def wheel(built):
    (path,) = built.glob('*.whl')
    with zipfile.ZipFile(path) as file:
        yield file


@pytest.fixture(scope='module')
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    return message_from_bytes(wheel.read(name))


def requirements(metadata, extra):
    """What an extra needs, with what the extras that it names need."""
    found = set()
    for line in metadata.get_all('Requires-Dist'):
        requirement, _, marker = line.partition('; ')
        if marker == f'extra == "{extra}"':
            others = re.fullmatch(r'gkgnet-timm\[(.*)\]', requirement)
            found |= (
                set().union(*(requirements(metadata, other) for other in others[1].split(',')))
                if others
                else {requirement}
            )
    return found


def test_the_wheel_has_the_package_whole_and_nothing_else(wheel):
    """A new data file has to be named in setup.cfg."""
    names = set(wheel.namelist())
    assert {name for name in names if '.dist-info/' not in name} == PACKAGE
    assert any(name.endswith('.dist-info/licenses/LICENSE') for name in names)


def test_the_sdist_has_what_builds_the_wheel_and_no_tests(built):
    (path,) = built.glob('*.tar.gz')
    with tarfile.open(path) as file:
        names = {member.name.partition('/')[2] for member in file if member.isfile()}
    others = {name for name in names - PACKAGE if '.egg-info/' not in name}
    assert PACKAGE <= names
    assert others >= {'LICENSE', 'README.md', 'pyproject.toml', 'setup.cfg'} | SCRIPTS
    assert not [name for name in others if '/' in name]


def test_the_version_stands_in_one_place(metadata):
    (version,) = re.findall(r"'(.+)'", (ROOT / 'gkgnet_timm' / 'version.py').read_text())
    assert metadata['Version'] == version
    assert metadata['License-Expression'] == 'Apache-2.0'


def test_all_is_every_extra_for_users(metadata):
    users = {extra for extra in metadata.get_all('Provides-Extra') if extra not in ('all', 'docs', 'test', 'types')}
    assert requirements(metadata, 'all') == set().union(*(requirements(metadata, extra) for extra in users))


def test_tests_run_with_every_extra(metadata):
    assert requirements(metadata, 'all') <= requirements(metadata, 'test')


def test_messages_name_extras_that_exist(metadata):
    texts = [(ROOT / name).read_text(encoding='utf-8') for name in TRACKED if name.endswith(('.py', '.md'))]
    named = {extra for text in texts for extra in re.findall(r'gkgnet-timm\[([\w,]+)\\?\]', text)}
    assert named >= {'explain', 'heif', 'onnx', 'report', 'serve', 'shards', 'split', 'tensorboard'}
    assert {part for extra in named for part in extra.split(',')} <= set(metadata.get_all('Provides-Extra'))
