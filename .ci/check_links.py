"""Check the links of the repository's Markdown files, as GitHub shows them, and of a built site.

    python .ci/check_links.py [--site FOLDER] [--external]

A link leads to a file, an anchor to a heading or an id, and a page of the site loads nothing from other hosts. Links to
other hosts are counted; `--external` tries them.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin

ADDRESSES = {'canonical', 'next', 'prev'}  # values of rel that say where pages are
MARKDOWN = MarkdownIt('commonmark').enable('table').use(anchors_plugin, max_level=6)


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {'', 'top'}
        text = path.read_text(encoding='utf-8')
        self.feed(MARKDOWN.render(text) if path.suffix == '.md' else text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get('id'), attrs.get('name')}
        found = [attrs[key].split()[0] for key in ('href', 'src', 'srcset') if attrs.get(key)]
        if tag != 'link' or attrs.get('rel') not in ADDRESSES:
            self.links += found
            self.loaded += found if tag != 'a' else []


def check_pages(paths, root):
    """What is wrong in some pages below a folder, a line each, and the links to other hosts."""
    pages, problems, outside = {path: Page(path) for path in paths}, [], []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside += [link] if parts.netloc else []
                continue
            name = unquote(parts.path)
            target = Path(f'{root}{name}') if name.startswith('/') else path.parent / name if name else path
            target = target.resolve()
            if target.is_dir() and path.suffix == '.html':
                target /= 'index.html'
            if not target.exists() or not target.is_relative_to(root):
                problems.append(f'{path.relative_to(root)}: {link!r}: no such file')
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f'{path.relative_to(root)}: {link!r}: no such anchor')
    return problems, outside


def check_loaded(site):
    """What pages and styles of a site load from other hosts, a line each."""
    for path in sorted(site.rglob('*.html')):
        for link in filter(lambda link: urlsplit(link).netloc, Page(path).loaded):
            yield f'{path.relative_to(site)}: loads {link!r} from another host'
    for path in sorted(site.rglob('*.css')):
        for link in re.findall(r'(?:url\(|@import)\s*["\']?((?:https?:)?//[^"\')\s]+)', path.read_text('utf-8')):
            yield f'{path.relative_to(site)}: loads {link!r} from another host'


def check_outside(links):
    """Those of some links to other hosts that lead nowhere, a line each."""
    import requests

    for link in sorted(set(links)):
        try:
            requests.get(link, timeout=20, stream=True).raise_for_status()
        except requests.RequestException as error:
            yield f'{link}: {error}'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--site', type=Path, help='folder of a built site')
    parser.add_argument('--external', action='store_true', help='try links to other hosts, too')
    args = parser.parse_args(argv)
    root = Path.cwd().resolve()
    files = subprocess.check_output(['git', 'ls-files', '-z', '*.md'], text=True).split('\0')[:-1]
    problems, outside = check_pages([root / name for name in files], root)
    if args.site:
        site = args.site.resolve()
        pages = [path for path in site.rglob('*.html') if path.name != '404.html']  # its links start at the host
        found = check_pages(pages, site)
        problems += [*found[0], *check_loaded(site)]
        outside += found[1]
    hosts = Counter(urlsplit(link).netloc for link in outside)
    print(f'{len(outside)} links to other hosts:', ', '.join(f'{host} {n}' for host, n in hosts.most_common()))
    if args.external:
        problems += check_outside(outside)
    print(*problems, sep='\n')
    return bool(problems)


if __name__ == '__main__':
    sys.exit(main())
