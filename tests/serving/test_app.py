"""The server's answers: those of predict and explain for every image, in the order of the request."""

import io
import json
import threading

import numpy as np
import pytest
import torch
from conftest import save_image
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny import create
from uploads import NAMES, READABLE, THRESHOLDS, create_scorer, jpeg, post, saved, turned

import timm

from gkgnet_timm.explanation.explain import explain
from gkgnet_timm.inference.predictor import class_names_of, predict_images
from gkgnet_timm.serving.app import create_app
from gkgnet_timm.serving.explainer import Explainer
from gkgnet_timm.serving.scorer import Scorer
from gkgnet_timm.serving.server import create_server


@pytest.fixture(scope='module')
def scorer():
    return create_scorer(max_pixels=1_000_000)


@pytest.fixture(scope='module')
def client(scorer):
    app = create_app(scorer, name='tiny', explainer=Explainer(scorer, explain, True), max_upload=2_000_000, queue=20)
    with TestClient(app) as client:
        yield client


def test_scores_are_those_of_predict(client, scorer, tmp_path):
    contents = [(name, make()) for name, make in READABLE.items()]
    for name, content in contents:
        (tmp_path / name).write_bytes(content)
    answer = post(client, contents)
    assert answer.status_code == 200
    rows = answer.json()
    expected = list(
        predict_images(scorer.model, [str(tmp_path / name) for name in READABLE], batch_size=1, device='cpu')
    )
    assert [row['file'] for row in rows] == list(READABLE)
    for row, (_, scores, error) in zip(rows, expected):
        assert not error and list(row['scores']) == NAMES
        np.testing.assert_allclose(list(row['scores'].values()), scores, rtol=0, atol=1e-5)
    different = {json.dumps(row['scores']) for row in rows}
    assert len(different) == len(rows) - 1  # the PNG and the TIFF of 16 bits have the same pixels


def test_labels_are_those_above_their_threshold_best_first(client, scorer):
    ((row),) = post(client, [('x.jpg', jpeg())]).json()
    scores = row['scores']
    expected = sorted((n for n, t in zip(NAMES, scorer.thresholds) if scores[n] >= t), key=lambda n: -scores[n])
    assert row['labels'] == [dict(label=name, score=scores[name]) for name in expected]
    assert 0 < len(expected) < len(NAMES)


def test_hostile_names_are_text(client):
    name = '../../<img src=x onerror=alert(1)>\u202e.jpg'
    answer = post(client, [(name, jpeg())])
    assert answer.json()[0]['file'] == name and answer.headers['content-type'] == 'application/json'


def test_order_with_many_clients(client, scorer, tmp_path):
    """Every client gets the scores of its own images."""
    contents = []
    for i in range(6):
        save_image(tmp_path / f'{i}.png', i)
        contents.append((f'{i}.png', (tmp_path / f'{i}.png').read_bytes()))
    expected = [scores for _, scores, _ in predict_images(scorer.model, str(tmp_path), batch_size=1, device='cpu')]
    wrong = []

    def ask(shift):
        for turn in range(4):
            places = [(shift + turn + j) % 6 for j in range(2)]
            for place, row in zip(places, post(client, [contents[place] for place in places]).json()):
                if row['file'] != f'{place}.png' or not np.allclose(
                    list(row['scores'].values()), expected[place], atol=1e-5
                ):
                    wrong.append((shift, row))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_model_is_described(client):
    about = client.get('/model').json()
    assert about['name'] == 'tiny' and about['class_names'] == NAMES and about['calibrated']
    assert about['thresholds'] == dict(zip(NAMES, THRESHOLDS))
    assert about['label_graph'] and about['patch_neighbors'] and about['preprocessing']['size'] == [64, 64]
    assert about['limits'] == dict(upload_bytes=2_000_000, pixels=1_000_000, files=10)
    assert about['license'] and about['version']


def test_explanations_are_those_of_explain(client, scorer):
    content = turned()
    answer = client.post('/explain', files=dict(file=('x.jpg', content)), data=dict(labels=['b', 'a']))
    assert answer.status_code == 200, answer.text
    expected = explain(scorer.model, Image.open(io.BytesIO(content)), labels=['b', 'a'], class_names=NAMES)
    found = answer.json()
    assert (found['width'], found['height']) == (50, 70) == expected.image.size
    assert found['patches'] == json.loads(json.dumps(expected.to_json()))
    assert [label['label'] for label in found['labels']] == ['b', 'a']
    assert [label['threshold'] for label in found['labels']] == THRESHOLDS[1::-1]
    assert [grid['rows'] for grid in found['grids']] == [16, 8, 4, 2]
    row = post(client, [('x.jpg', content)]).json()[0]
    np.testing.assert_allclose(list(found['scores'].values()), list(row['scores'].values()), atol=1e-5)
    near = client.post('/explain', files=dict(file=('x.jpg', content)), data=dict(patch='3,5')).json()
    expected = explain(scorer.model, Image.open(io.BytesIO(content)), patch=(3, 5), class_names=NAMES)
    assert near['patches'] == json.loads(json.dumps(expected.to_json())) and near['labels'] == []


def test_scores_of_mixed_precision():
    """An explanation has the scores of the image alone, rounded alike."""
    scorers = [create_scorer(amp=amp) for amp in (True, False)]
    scores = []
    for scorer in scorers:
        with TestClient(create_app(scorer, explainer=Explainer(scorer, explain, True))) as client:
            found = client.post('/explain', files=dict(file=('x.jpg', jpeg()))).json()
            (row,) = post(client, [('x.jpg', jpeg())]).json()
        assert found['scores'] == row['scores']
        scores.append(row['scores'])
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    'fields, reason',
    [
        (dict(labels=['c']), "'c'"),
        (dict(patch='16,0'), 'rows 0 to 15'),
        (dict(patch='-1,0'), 'row,column'),
        (dict(patch='1'), 'row,column'),
        (dict(patch='1,1', labels=['a']), 'one of'),
    ],
)
def test_what_cannot_be_explained(client, fields, reason):
    answer = client.post('/explain', files=dict(file=('x.jpg', jpeg())), data=fields)
    assert answer.status_code == 422 and reason in answer.json()['detail'], answer.text


def test_explained_images_are_few(scorer, monkeypatch):
    """The last images are kept by the size of their pixels, so that memory is bounded."""
    monkeypatch.setattr('gkgnet_timm.serving.explainer.KEPT_BYTES', 3 * 40 * 30 * 3)
    decoded = []
    explainer = Explainer(scorer, explain, True)
    read = scorer.read_original
    monkeypatch.setattr(scorer, 'read_original', lambda upload: decoded.append(1) or read(upload))
    contents = [saved('PNG', 'RGB', pnginfo=info(i)) for i in range(5)]
    for content in [*contents, *contents[2:], contents[0]]:
        assert not explainer.read(io.BytesIO(content))[1]
    assert len(decoded) == 6


def test_kept_answers_are_few(scorer, monkeypatch):
    """The last answers are kept as long as their bytes are few."""
    asked = []
    explainer = Explainer(scorer, lambda *args, **options: asked.append(1) or explain(*args, **options), True)
    found = explainer.read(io.BytesIO(jpeg()))[0]
    first = explainer.explain(['a'], None, found)
    assert explainer.explain(['a'], None, found) == first and len(asked) == 1
    monkeypatch.setattr('gkgnet_timm.serving.explainer.KEPT_JSON', int(2.5 * len(first)))
    for label in ('b', '<b>', '<b>', 'b', 'a'):
        explainer.explain([label], None, found)
    assert len(asked) == 4
    monkeypatch.setattr('gkgnet_timm.serving.explainer.KEPT_JSON', 1)
    for _ in range(2):
        assert explainer.explain(['a'], None, found) == first
    assert len(asked) == 4


def info(number):
    text = PngInfo()
    text.add_text('number', str(number))
    return text


def test_a_label_graph_without_a_graph_of_patches():
    model = timm.create_model('gkgnet_backbone', backbone='test_resnet', num_classes=3, img_size=64).eval()
    app = create_server(
        model, class_names_of(model), 0.5, name='b', max_upload=10**6, queue=4, batch_size=2, device='cpu'
    )
    with TestClient(app) as client:
        about = client.get('/model').json()
        assert (about['label_graph'], about['patch_neighbors']) == (True, False)
        file = dict(file=('x.jpg', jpeg()))
        assert client.post('/explain', files=file, data=dict(labels=['class 1'])).json()['patches']
        answer = client.post('/explain', files=file, data=dict(patch='1,1'))
        assert answer.status_code == 422 and 'ViG trunk' in answer.json()['detail']


def test_models_without_a_label_graph():
    model = create('pvig_ti_224', dtype=torch.float32)
    with TestClient(create_app(Scorer(model, class_names_of(model), device='cpu'), name='pvig')) as client:
        assert client.get('/model').json()['label_graph'] is False
        answer = client.post('/explain', files=dict(file=('x.jpg', jpeg())))
        assert answer.status_code == 404 and 'label graph' in answer.json()['detail']
        assert post(client, [('x.jpg', jpeg())]).status_code == 200


def test_pages_ask_no_other_host(client):
    paths = ['/', '/docs', '/page/app.js', '/page/card.js', '/page/patches.js', '/page/style.css', '/page/icon.svg']
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200 and "default-src 'none'" in answer.headers['content-security-policy']
        for address in ('//', 'http:', 'https:'):
            for line in answer.text.splitlines():
                allowed = ('arxiv.org', 'www.w3.org', 'http://testserver', '// ')
                assert address not in line or any(known in line for known in allowed), (path, line)
    assert client.get('/page/../app.py').status_code == client.get('/page/x.js').status_code == 404


def test_the_list_of_endpoints_and_openapi(client):
    text = client.get('/docs').text
    for command in ('-F files=@a.jpg -F files=@b.jpg http://testserver/predict', '/explain', 'http://testserver/model'):
        assert f'{command}</code>' in text
    described = client.get('/openapi.json').json()['paths']
    assert set(described) == {'/model', '/predict', '/explain'}
    assert 'multipart/form-data' in described['/predict']['post']['requestBody']['content']
    assert {'413', '422', '503'} <= set(described['/predict']['post']['responses'])
    hostile = client.get('/docs', headers={'host': '"><script>alert(1)</script>'})
    assert '<script>' not in hostile.text
