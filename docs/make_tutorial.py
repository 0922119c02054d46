"""Run docs/tutorial.ipynb and keep what its cells show, so that the site need not run it.

After a change of a code cell, in the root of the repository: PYTHONPATH=. python docs/make_tutorial.py
"""

import base64
import hashlib
import io
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parent / 'tutorial.ipynb'
KERNEL = dict(display_name='Python 3', language='python', name='python3')


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """A hash of the code, by which a test knows that the outputs are of it."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    return hashlib.sha256('\0'.join(cells).encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Run all cells in a folder.

    Raises:
        CellExecutionError: If one fails.
    """
    NotebookClient(notebook, timeout=1800, coalesce_streams=True, resources=dict(metadata=dict(path=folder))).execute()


def to_jpeg(png: str) -> str:
    """A picture in base64, much smaller: scenes have noise."""
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB').save(file, 'JPEG', quality=80)
    return base64.b64encode(file.getvalue()).decode()


def clean(notebook: nbformat.NotebookNode, folder: str) -> None:
    """Drop what is of the machine alone: when a cell ran, and where."""
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)
        for output in cell.get('outputs', ()):
            if 'text' in output:
                output.text = output.text.replace(f'{folder}/', '')
            elif 'image/png' in output.data:
                output.data['image/jpeg'] = to_jpeg(output.data.pop('image/png'))
                if 'image/png' in output.metadata:  # its size on the page
                    output.metadata['image/jpeg'] = output.metadata.pop('image/png')
    notebook.metadata = dict(kernelspec=KERNEL, language_info=dict(name='python'), outputs_of=source_hash(notebook))


def main() -> None:
    os.environ['PYTHONWARNINGS'] = 'ignore:IProgress'  # of tqdm, where there is no ipywidgets
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, folder)
        clean(notebook, folder)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == '__main__':
    main()
