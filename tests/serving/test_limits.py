"""What the server refuses: no images, too many or too large ones, and more than it can do."""

import http.client
import socket
import threading
import time

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from tiny import create
from uploads import NAMES, UNREADABLE, create_scorer, jpeg, post, serving, turned

from gkgnet_timm.explanation.explain import explain
from gkgnet_timm.serving.app import create_app
from gkgnet_timm.serving.explainer import Explainer
from gkgnet_timm.serving.scorer import Scorer


@pytest.fixture(scope='module')
def scorer():
    return create_scorer(max_pixels=1_000_000)


@pytest.fixture(scope='module')
def client(scorer):
    app = create_app(scorer, name='tiny', explainer=Explainer(scorer, explain, True), max_upload=2_000_000, queue=20)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize('name', UNREADABLE)
def test_what_is_no_image(client, name):
    (make, reason), limit = UNREADABLE[name], Image.MAX_IMAGE_PIXELS
    began = time.monotonic()
    alone = post(client, [(name, make())])
    assert time.monotonic() - began < 1
    assert alone.status_code == 422 and alone.json()[0]['file'] == name and reason in alone.json()[0]['error']
    assert 'BytesIO' not in alone.text
    lenient = post(client, [(name, make())], '/predict?lenient=true')
    assert lenient.status_code == 200 and lenient.json() == alone.json()
    mixed = post(client, [('a.jpg', jpeg()), (name, make()), ('b.jpg', turned())])
    assert mixed.status_code == 200
    assert [row['file'] for row in mixed.json()] == ['a.jpg', name, 'b.jpg']
    assert ['error' in row for row in mixed.json()] == [False, True, False]
    assert mixed.json()[0]['scores'] != mixed.json()[2]['scores']
    assert Image.MAX_IMAGE_PIXELS == limit  # is one for the whole process


def test_requests_without_files(client):
    for answer in (
        client.post('/predict'),
        client.post('/predict', data=dict(files='text')),
        client.post('/predict', files=[('other', ('a.jpg', jpeg()))]),
        client.post('/predict', content=b'x', headers={'content-type': 'multipart/form-data'}),
        client.post('/explain'),
    ):
        assert answer.status_code in (400, 422) and isinstance(answer.json()['detail'], str), answer.text


def test_too_many_files(client):
    answer = post(client, [(f'{i}.jpg', b'') for i in range(11)])
    assert answer.status_code == 400 and 'up to 10' in answer.json()['detail']


@pytest.mark.parametrize('queue, files', [(1, 1), (2, 1), (7, 3), (64, 32), (1000, 64)])
def test_files_of_a_request_are_half_the_queue(scorer, queue, files):
    with TestClient(create_app(scorer, queue=queue)) as client:
        assert client.get('/model').json()['limits']['files'] == files
        assert client.post('/predict', files=[('files', ('a.txt', b'text'))] * files).status_code == 422


def test_large_uploads_are_refused_with_and_without_a_length(client):
    large = [('files', ('a.jpg', b'\0' * 2_100_000))]
    stated = client.post('/predict', files=large)
    body = client.build_request('POST', '/predict', files=large)
    content, kind = body.read(), body.headers['content-type']

    def in_parts():
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    streamed = client.post('/predict', content=in_parts(), headers={'content-type': kind})
    for answer in (stated, streamed):
        assert answer.status_code == 413 and 'larger than the 2 MB' in answer.json()['detail']
    assert post(client, [('a.jpg', jpeg())]).status_code == 200


def test_clients_that_read_no_answer_before_they_have_sent_all(scorer):
    """Over a real connection, which must stay open for them; a length alone is enough to be refused."""
    with serving(create_app(scorer, max_upload=2_000_000)) as address:
        host, port = address.removeprefix('http://').split(':')
        headers = {'Content-Type': 'multipart/form-data; boundary=b'}
        for _ in range(3):
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.request('POST', '/predict', b'0' * 20_000_000, headers)
            assert connection.getresponse().status == 413
            connection.close()
        with socket.create_connection((host, int(port)), timeout=3) as connection:
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999\r\n\r\n')
            assert connection.recv(12) == b'HTTP/1.1 413'


def test_a_full_queue_answers_503_and_goes_on(scorer):
    """A model that waits: one image is in it, as many as the queue takes wait, the rest are told to come again."""
    entered, go_on, batches = threading.Event(), threading.Event(), []

    class Slow:
        def __getattr__(self, name):
            return getattr(scorer, name)

        def score(self, images):
            batches.append(len(images))
            entered.set()
            assert go_on.wait(20)
            return scorer.score(images)

    with TestClient(create_app(Slow(), queue=3, batch_size=2)) as client:
        answers = {}

        def ask(i):
            answers[i] = post(client, [(f'{i}.jpg', jpeg())])

        def start(i):
            thread = threading.Thread(target=ask, args=(i,))
            thread.start()
            return thread

        threads = [start(0)]
        assert entered.wait(20)
        for i in range(1, 12):  # 1 in the model, 2 read, 1 that waits for their place, 3 in the queue
            threads.append(start(i))
            time.sleep(0.1)
        full = post(client, [('late.jpg', jpeg())])
        go_on.set()
        for thread in threads:
            thread.join(20)
        assert full.status_code == 503 and full.headers['retry-after'] == '1' and 'again' in full.json()['detail']
        counts = [answer.status_code for answer in answers.values()]
        assert counts.count(200) == 7 and counts.count(503) == 5, counts
        assert max(batches) == 2, batches
        assert post(client, [('after.jpg', jpeg())]).status_code == 200


def test_an_explanation_of_no_image(client):
    answer = client.post('/explain', files=dict(file=('x.jpg', b'text')))
    assert answer.status_code == 422 and 'not an image' in answer.json()['detail']


def test_scores_that_are_not_finite():
    model = create(dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    app = create_app(Scorer(model, NAMES, device='cpu'), name='broken')
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = post(client, [('x.jpg', jpeg())])
    assert answer.status_code == 500 and 'not finite' in answer.json()['detail']
