"""What MkDocs lacks for this site: pages from outside docs/, links to any file of the repository, notebooks as pages.

README.md is the first page. Other files have the same path on the site as below docs/, those outside it below project/.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
OUTSIDE = 'project/'
PAGES = ('*.md', 'results/*.md', 'tests/*/*.md')
LINK = re.compile(r'(\]\(|^\[[^]]+\]: )([^)\s#:]+)', re.MULTILINE)


def on_files(files, config):
    """Add the Markdown files of the project, and notebooks as Markdown with the pictures that they show."""
    for path in [path for pattern in PAGES for path in ROOT.glob(pattern)]:
        add(path.relative_to(ROOT).as_posix(), files, config)
    for notebook in [file for file in files if file.src_uri.endswith('.ipynb')]:
        names = {'unique_key': Path(notebook.src_uri).stem}  # what names of pictures begin with
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, names)
        files.remove(notebook)
        files.append(File.generated(config, site_path(f'docs/{notebook.src_uri}'), content=text))
        for name, content in resources['outputs'].items():
            path = posixpath.join(posixpath.dirname(notebook.src_uri), name)
            files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links between those of the site."""
    here = page.file.src_uri
    if here == 'index.md':
        source = 'README.md'
    else:
        source = here.removeprefix(OUTSIDE) if here.startswith(OUTSIDE) else f'docs/{here}'

    def rewrite(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target.startswith('..') or not (ROOT / target).is_file():
            return match[0]
        if not target.endswith(('.md', '.ipynb')):  # too late for pages
            add(target, files, config)
        return match[1] + posixpath.relpath(site_path(target), posixpath.dirname(here) or '.')

    return LINK.sub(rewrite, markdown)


def site_path(path):
    """Path on the site of a file of the repository."""
    if path == 'README.md':
        return 'index.md'
    path = path.removeprefix('docs/') if path.startswith('docs/') else OUTSIDE + path
    return re.sub(r'\.ipynb$', '.md', path)


def add(path, files, config):
    """Add a file of the repository to the site, unless it is there."""
    if files.get_file_from_path(site_path(path)) is None:
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
