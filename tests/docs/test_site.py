"""What makes the build of the site fail, and what its pages load. Every site is that of a small repository."""

import functools
import http.server
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from browser import open_browser, open_page
from conftest import ROOT
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
PAGES = {
    'README.md': '# Start\n\n[A](docs/page.md#page), [b](results/made.md), [c](train.py), `[d](none.py)`\n',
    'docs/page.md': '# Page\n\n[A](tutorial.ipynb), [b](../results/made.md), [c](../train.py), [d](../README.md#start)',
    'results/made.md': '# Figures\n\n[A](../docs/page.md), [b](../README.md) and ![c](made.svg)\n',
    'results/made.svg': '<svg xmlns="http://www.w3.org/2000/svg"/>',
    'train.py': 'print()\n',
}
LINKS = {
    '': ['page/#page', 'project/results/made/', 'project/train.py'],
    'page': ['../tutorial/', '../project/results/made/', '../project/train.py', '../#start'],
    'project/results/made': ['../../../page/', '../../..', '../made.svg'],
    'tutorial': ['../page/#page', '../tutorial_1_0.png'],
}
HREF = re.compile(' (?:href|src)="([^"]*)"')
NAV = ['index.md', 'page.md', 'tutorial.md', 'project/results/made.md']


@pytest.fixture
def repository(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    picture = new_output('display_data', {'image/png': PIXEL})
    cells = [new_markdown_cell('# Lesson\n\n[Back](page.md#page)'), new_code_cell('draw()', outputs=[picture])]
    nbformat.write(new_notebook(cells=cells), tmp_path / 'docs' / 'tutorial.ipynb')
    for name in ('hooks.py', 'style.css'):
        shutil.copy(ROOT / 'docs' / name, tmp_path / 'docs')
    shutil.copytree(ROOT / 'docs' / 'theme', tmp_path / 'docs' / 'theme')
    shutil.copy(ROOT / 'mkdocs.yml', tmp_path)
    return tmp_path


def build_site(repository, nav=NAV):
    """Build the site of a repository strictly, and return its folder."""
    config = load_config(str(repository / 'mkdocs.yml'), nav=nav)
    config.plugins.on_startup(command='build', dirty=False)
    build(config)
    return repository / 'site'


def test_files_of_a_repository_and_a_notebook_as_pages(repository):
    site = build_site(repository)
    found = {name: HREF.findall((site / name / 'index.html').read_text()) for name in LINKS}
    assert all(set(LINKS[name]) <= set(found[name]) for name in LINKS), found
    assert '[d](none.py)' in (site / 'index.html').read_text() and not (site / 'hooks').exists()
    assert (site / 'project' / 'train.py').read_text() == 'print()\n'
    assert (site / 'tutorial_1_0.png').read_bytes()[1:4] == b'PNG'


@pytest.mark.parametrize(
    'link, message',
    {
        'missing.md': "link 'missing.md', but the target is not found",
        '../missing.py': "link '../missing.py', but the target is not found",
        '../../outside.md': "link '../../outside.md', but the target is not found",
        '#nowhere': "link '#nowhere', but there is no such anchor",
        'tutorial.ipynb#nowhere': "link 'tutorial.md#nowhere', but the doc 'tutorial.md' does not contain an anchor",
        '../results/made.md#nowhere': "does not contain an anchor '#nowhere'",
        '/tutorial.md': "absolute link '/tutorial.md'",
        'pictures/': "unrecognized relative link 'pictures/'",
    }.items(),
)
def test_dead_links_fail(repository, link, message, caplog):
    (repository.parent / 'outside.md').write_text('not of the repository')
    (repository / 'docs' / 'page.md').write_text(f'# Page\n\n[Link]({link})\n')
    check_failure(repository, message, caplog)


def test_a_page_without_an_entry_fails(repository, caplog):
    check_failure(repository, "not included in the \"nav\" configuration:\n  - tutorial.md", caplog, NAV[:2] + NAV[3:])


def test_an_entry_without_a_page_fails(repository, caplog):
    check_failure(repository, "'gone.md' is included in the 'nav' configuration", caplog, [*NAV, 'gone.md'])


def test_the_script_of_ci(repository):
    settings = repository / 'mkdocs.yml'
    settings.write_text(settings.read_text().partition('\nnav:')[0] + f'\nnav: {NAV}\n')
    shutil.copytree(ROOT / '.ci', repository / '.ci')
    subprocess.run(['git', 'init', '-q', str(repository)], check=True)
    command = [repository / '.ci' / 'docs', repository / 'built']
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and (repository / 'built' / 'page' / 'index.html').exists(), done.stdout + done.stderr
    (repository / 'docs' / 'forgotten.md').write_text('# Forgotten\n')
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and 'forgotten.md' in done.stderr


def check_failure(repository, message, caplog, nav=NAV):
    with caplog.at_level(logging.WARNING, 'mkdocs'), pytest.raises(Abort, match='with 1 warnings in strict mode'):
        build_site(repository, nav)
    assert message in caplog.text


@pytest.mark.parametrize('repository_url', ['', 'https://github.com/example/example'])
def test_pages_load_nothing_from_other_hosts(repository, repository_url, monkeypatch):
    monkeypatch.setenv('PROJECT_URL', repository_url)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=build_site(repository))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server, open_browser() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/'
        with open_page(browser, f'{address}tutorial/') as page:
            page.type('input[name=query]', 'Figures')
            page.wait_for_selector('.md-search-result__link')
        server.shutdown()
    assert not page.problems
    assert all(request.startswith((address, 'data:')) for request in page.requests), page.requests
