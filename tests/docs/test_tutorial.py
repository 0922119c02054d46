"""The tutorial notebook: its code runs, and what it shows is of this code."""

import json
import runpy

import nbformat
import pytest
from conftest import ROOT

PATH = ROOT / 'docs' / 'tutorial.ipynb'
SETTINGS = """
PHOTOS, LABELS = 'photos', 'labels.csv'
PRETRAINED = False
NARROW = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3, label_k=3)
MODEL = dict(model='gkgnet_ti_224', img_size=64, model_kwargs=NARROW)
TRAINING = dict(batch_size=8, epochs=1, lr=1e-3, workers=0)
"""


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope='module')
def script():
    return runpy.run_path(str(ROOT / 'docs' / 'make_tutorial.py'))


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get('outputs', ())]


def test_the_notebook_runs(notebook, script, small_demo, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    (settings,) = (cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', ()))
    settings.source = SETTINGS
    shown = [len(cell.get('outputs', ())) > 0 for cell in notebook.cells]
    script['execute'](notebook, str(tmp_path))
    assert [len(cell.get('outputs', ())) > 0 for cell in notebook.cells] == shown
    assert (tmp_path / 'deployed' / 'model.onnx').is_file() and len([*(tmp_path / 'photos').iterdir()]) == 300
    scores, again = [output.text for output in outputs_of(notebook) if 'text' in output][-1].split('\n\n')[:2]
    assert scores.split() and len(scores.split()) == len(again.split())


def test_outputs_are_of_this_code(notebook, script):
    assert notebook.metadata.outputs_of == script['source_hash'](notebook), 'run docs/make_tutorial.py'
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == 'code']
    assert counts == [*range(1, len(counts) + 1)]


def test_outputs_are_small_and_of_no_machine(notebook):
    assert PATH.stat().st_size < 1_000_000
    text = json.dumps([cell for cell in notebook.cells if cell.cell_type == 'code' and cell.update(source='') is None])
    outputs = outputs_of(notebook)
    assert len([output for output in outputs if 'image/jpeg' in output.get('data', ())]) >= 6
    assert not [output for output in outputs if output.output_type == 'error' or output.get('name') == 'stderr']
    assert not [place for place in ('/tmp', '/home/', '/root', '/usr', 'site-packages', ':\\\\') if place in text]
    assert not [cell for cell in notebook.cells if set(cell.metadata) - {'tags'}]
