"""The check of links finds those that are dead, and what pages load from other hosts."""

import subprocess
import sys

import pytest
from conftest import ROOT

GUIDE = '# A guide\n\n## Twice\n\n## Twice\n\n### `--flag N`, a *name_of* [it](README.md)\n\n<a id="own"></a>\n'


def check(folder, *args):
    """Run the script in a repository, and return its status and what it prints."""
    subprocess.run(['git', 'init', '-q', str(folder)], check=True)
    subprocess.run(['git', '-C', str(folder), 'add', '.'], check=True)
    command = [sys.executable, str(ROOT / '.ci' / 'check_links.py'), *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'README.md').write_text('# Read me\n')
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'guide.md').write_text(GUIDE.replace('README.md', '../README.md'))
    return tmp_path


GOOD = [
    'docs/guide.md',
    'docs',
    '/README.md',
    'docs/guide.md#twice-1',
    '#read-me',
    'https://example.org/a#b',
    'mailto:',
]
GOOD += ['docs/guide.md#--flag-n-a-name_of-it', 'docs/guide.md#own', 'docs/a%20b.txt', '?plain=1#read-me']


def test_good_links(folder):
    (folder / 'docs' / 'a b.txt').write_text('')
    links = '\n'.join(f'[a]({link})' for link in GOOD)
    (folder / 'README.md').write_text(f'# Read me\n\n{links}\n\n```\n[a](none.md)\n```\n\n<!-- [a](none.md) -->\n')
    status, printed = check(folder)
    assert (status, printed.strip()) == (0, '1 links to other hosts: example.org 1')


@pytest.mark.parametrize('link', ['none.md', 'docs/none.md#a', '../outside.md', '/docs/none.py'])
@pytest.mark.parametrize(
    'form', ['[a]({})', '![a]({})', '[a][b]\n\n[b]: {}', '<img src="{}">', '<p><a href="{}">a</a></p>']
)
def test_dead_files(folder, link, form):
    (folder.parent / 'outside.md').write_text('')
    (folder / 'README.md').write_text(f'# Read me\n\n{form.format(link)}\n')
    status, printed = check(folder)
    assert status == 1 and f'README.md: {link!r}: no such file' in printed


@pytest.mark.parametrize('link', ['#none', 'docs/guide.md#Twice', 'docs/guide.md#twice-2', 'docs/guide.md#twice_1'])
def test_dead_anchors(folder, link):
    (folder / 'README.md').write_text(f'# Read me\n\n[a]({link})\n')
    status, printed = check(folder)
    assert status == 1 and f'README.md: {link!r}: no such anchor' in printed


def test_anchors_of_docstrings_are_left_to_the_site(folder):
    (folder / 'docs' / 'api.md').write_text('# API\n\n::: package.name\n')
    (folder / 'README.md').write_text('[a](docs/api.md#package.name)')
    assert check(folder)[0] == 0


def check_site(folder, text):
    for name in ('site', 'site/page'):
        (folder / name).mkdir()
        (folder / name / 'index.html').write_text('<h1 id="a">a</h1>')
    (folder / 'site' / 'page' / 'index.html').write_text(text)
    (folder / 'site' / 'style.css').write_text('')
    (folder / 'site' / '404.html').write_text('<a href="/path-of-the-host/none">')
    return check(folder, '--site', 'site')


def test_a_good_site(folder):
    head = '<link rel="canonical" href="https://example.org/page/"><link rel="stylesheet" href="../style.css">'
    text = f'{head}<a href="..">a</a><a href="../#a"><img src="data:image/png;base64,AA"><a href="https://example.org">'
    assert check_site(folder, text) == (0, '1 links to other hosts: example.org 1\n')


@pytest.mark.parametrize(
    'text, message',
    {
        '<a href="../none/">': "'../none/': no such file",
        '<a href="../#b">': "'../#b': no such anchor",
        '<a href="../../README.md">': "'../../README.md': no such file",
        '<script src="https://example.org/a.js"></script>': "loads 'https://example.org/a.js' from another host",
        '<link rel="preconnect" href="//example.org">': "loads '//example.org' from another host",
        '<img srcset="http://example.org/a.png 2x">': "loads 'http://example.org/a.png' from another host",
    }.items(),
)
def test_a_bad_site(folder, text, message):
    status, printed = check_site(folder, text)
    assert status == 1 and f'page/index.html: {message}' in printed


def test_other_hosts_are_tried_when_asked(folder):
    (folder / 'README.md').write_text('[a](http://127.0.0.1:9/none)')
    assert check(folder)[0] == 0
    status, printed = check(folder, '--external')
    assert status == 1 and 'http://127.0.0.1:9/none: cannot be reached' in printed
