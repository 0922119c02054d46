"""What MkDocs lacks for this site: pages from outside docs/, links to any file of the repository, notebooks as pages.

The path of a file in the repository, without docs/, is its path on the site; files outside docs/ are below project/.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
OUTSIDE = 'project/'
LINK = re.compile(r'(\]\(|^\[[^]]+\]: )([^)\s#:]+)', re.MULTILINE)


def on_files(files, config):
    """Add the Markdown files of the project, and notebooks as Markdown with the pictures that they show."""
    for path in [*ROOT.glob('*.md'), *ROOT.glob('results/*.md')]:
        if path.name != 'README.md':  # index.md says the same
            add_outside(files, config, path.relative_to(ROOT).as_posix())
    for notebook in [file for file in files if file.src_uri.endswith('.ipynb')]:
        names = {'unique_key': Path(notebook.src_uri).stem}  # what names of pictures begin with
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, names)
        files.remove(notebook)
        files.append(File.generated(config, markdown_name(notebook.src_uri), content=text))
        for name, content in resources['outputs'].items():
            path = posixpath.join(posixpath.dirname(notebook.src_uri), name)
            files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links between those of the site."""
    here = page.file.src_uri
    source = here.removeprefix(OUTSIDE) if here.startswith(OUTSIDE) else f'docs/{here}'

    def on_site(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target.startswith('docs/'):
            target = markdown_name(target.removeprefix('docs/'))
        elif target == 'README.md':
            target = 'index.md'
        elif not target.startswith('..') and (ROOT / target).is_file():
            target = add_outside(files, config, target)
        else:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(here) or '.')

    return LINK.sub(on_site, markdown)


def markdown_name(path):
    return re.sub(r'\.ipynb$', '.md', path)


def add_outside(files, config, path):
    """Path on the site of a file outside docs/, which is copied there if it is no page."""
    if files.get_file_from_path(OUTSIDE + path) is None:
        files.append(File.generated(config, OUTSIDE + path, abs_src_path=str(ROOT / path)))
    return OUTSIDE + path
