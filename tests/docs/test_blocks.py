"""The commands and the Python of the README and of all pages run as written, on a tiny model."""

import importlib.metadata
import itertools
import shutil

import pytest
from blocks import (
    LANGUAGES,
    OWN_TESTS,
    PAGES,
    check_exempt,
    needed_packages,
    read_blocks,
    read_commands,
    read_spans,
    unknown_flags,
)
from conftest import ROOT
from run_blocks import make_world, run_page

BLOCKS = {page: read_blocks(page) for page in PAGES}
EXEMPT = [block for blocks in BLOCKS.values() for block in blocks if block.reason]


@pytest.fixture(scope='session')
def world(tmp_path_factory, server):
    """A folder that every page gets a copy of, with a cache beside it."""
    world = tmp_path_factory.mktemp('world')
    (world / 'folder').mkdir()
    made = server.call_together([{'GKGNET_TIMM_CACHE': str(world / 'cache')}], make_world, str(world / 'folder'))[0]
    assert made.code == 0, made.stderr
    return world


def is_run(block):
    return block.language in ('bash', 'python') and not block.reason


@pytest.mark.parametrize('page', [page for page in PAGES if any(map(is_run, BLOCKS[page])) and page not in OWN_TESTS])
def test_blocks_run(page, world, server, tmp_path):
    bash = [block for block in BLOCKS[page] if is_run(block) and block.language == 'bash']
    for command in itertools.chain(*map(read_commands, bash)):
        for name in needed_packages(command.words):
            try:
                importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                pytest.skip(f'{command.place}: {name} is not installed')
    copy = shutil.copytree(world, tmp_path / 'world')
    done = server.call_together([{'GKGNET_TIMM_CACHE': str(copy / 'cache')}], run_page, page, str(copy / 'folder'))[0]
    print(done.stdout)
    if done.code:
        pytest.fail(f'{page}:\n{done.stderr}', pytrace=False)


@pytest.mark.parametrize('block', EXEMPT, ids=lambda block: f'{block.page}:{block.line}')
def test_blocks_that_are_not_run(block):
    check_exempt(block)


@pytest.mark.parametrize('page', PAGES)
def test_every_block_is_of_a_known_kind(page):
    for block in BLOCKS[page]:
        place = f'{page}:{block.line}'
        assert block.language in LANGUAGES, f'{place}: {block.language!r}, expected one of {LANGUAGES}'
        assert block.language != 'console' or page in OWN_TESTS, f'{place}: a test of the page has to run it'


@pytest.mark.parametrize('page', PAGES)
def test_flags_in_the_text_exist(page):
    unknown = [f'{place}: {name} in `{span}`' for place, span in read_spans(page) for name in unknown_flags(span)]
    assert not unknown, '\n'.join(unknown)


def test_pages_with_tests_of_their_own():
    for page, test in OWN_TESTS.items():
        assert page in PAGES and page.rpartition('/')[2] in (ROOT / test).read_text(encoding='utf-8')
