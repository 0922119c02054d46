"""Check the links of the repository's Markdown files, as GitHub shows them, and of a built site.

    python .ci/check_links.py [--site FOLDER] [--external]

A link leads to a file, an anchor to a heading or an id, and a page of the site loads nothing from other hosts. Links to
other hosts are counted; `--external` tries them.
"""

import argparse
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin

ADDRESSES = {'canonical', 'next', 'prev'}  # values of rel that say where pages are
MARKDOWN = MarkdownIt('commonmark').enable('table').use(anchors_plugin, max_level=6)


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {'', 'top'}
        text = path.read_text(encoding='utf-8')
        self.is_made = path.suffix == '.md' and '\n::: ' in text  # of docstrings, whose anchors the site alone has
        self.feed(MARKDOWN.render(text) if path.suffix == '.md' else text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get('id'), attrs.get('name')}
        if tag != 'link' or attrs.get('rel') not in ADDRESSES:
            found = [attrs[key].split()[0] for key in ('href', 'src', 'srcset') if attrs.get(key)]
            self.links += found
            self.loaded += found if tag != 'a' else []

    def knows(self, anchor):
        return self.is_made or anchor in self.anchors


def check_pages(paths, root):
    """What is wrong in some pages below a folder, a line each, and the links to other hosts."""
    pages, problems, outside = {path: Page(path) for path in paths}, [], []
    for path, page in pages.items():
        name = path.relative_to(root)
        if path.suffix == '.html':
            problems += [f'{name}: loads {link!r} from another host' for link in page.loaded if urlsplit(link).netloc]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside += [link] if parts.netloc else []
                continue
            to = unquote(parts.path)
            target = (Path(f'{root}{to}') if to.startswith('/') else path.parent / to if to else path).resolve()
            if target.is_dir() and path.suffix == '.html':
                target /= 'index.html'
            if not target.exists() or not target.is_relative_to(root):
                problems.append(f'{name}: {link!r}: no such file')
            elif target in pages and not pages[target].knows(unquote(parts.fragment)):
                problems.append(f'{name}: {link!r}: no such anchor')
    return problems, outside


def is_reached(link):
    try:
        return requests.get(link, timeout=20, stream=True).ok
    except requests.RequestException:
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--site', type=Path, help='folder of a built site')
    parser.add_argument('--external', action='store_true', help='try links to other hosts, too')
    args = parser.parse_args()
    root = Path.cwd().resolve()
    files = subprocess.check_output(['git', 'ls-files', '-z', '*.md'], text=True).split('\0')[:-1]
    problems, outside = check_pages([root / name for name in files], root)
    if args.site:
        pages = [
            path for path in args.site.resolve().rglob('*.html') if path.name != '404.html'
        ]  # its links start at /
        found = check_pages(pages, args.site.resolve())
        problems, outside = problems + found[0], outside + found[1]
    hosts = Counter(urlsplit(link).netloc for link in outside)
    print(f'{len(outside)} links to other hosts:', ', '.join(f'{host} {n}' for host, n in hosts.most_common()))
    if args.external:
        problems += [f'{link}: cannot be reached' for link in sorted(set(outside)) if not is_reached(link)]
    sys.exit('\n'.join(problems) or None)


if __name__ == '__main__':
    main()
