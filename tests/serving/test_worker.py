"""The queue in front of the model: how much of it is in memory, and how it ends."""

import threading
import time
from functools import partial

import httpx
import pytest
from uploads import create_scorer, jpeg, post, serving

from gkgnet_timm.data import BadImageError
from gkgnet_timm.serving.app import create_app
from gkgnet_timm.serving.worker import Busy, Worker


@pytest.fixture(scope='module')
def scorer():
    return create_scorer()


def test_files_of_a_request_wait_all_or_none():
    worker = Worker(lambda images: images, batch_size=1, limit=3)
    assert len(worker.submit([lambda: (1, '')] * 2)) == 2
    with pytest.raises(Busy):
        worker.submit([lambda: (1, '')] * 2)
    assert not worker.is_full
    worker.submit([lambda: (1, '')])
    assert worker.is_full


def test_few_originals_are_in_memory():
    """Images with work of their own are read when there is room for them, whatever becomes of those before."""
    lock, live, most = threading.Lock(), 0, 0

    def change(by):
        nonlocal live, most
        with lock:
            live += by
            most = max(most, live)

    def read(number):
        if number == 1:
            raise OSError('no such file')
        if number == 2:
            return None, 'it is empty'
        change(1)
        return number, ''

    def work(number):
        time.sleep(0.01)
        change(-1)
        if number == 4:
            raise ValueError('no such label')
        return 10 * number

    worker = Worker(lambda images: images, batch_size=16, limit=64)
    worker.start()
    futures = worker.submit([partial(read, number) for number in range(20)], work)
    results = [future.exception(10) or future.result() for future in futures]
    worker.close()
    assert [type(results[number]) for number in (1, 2, 4)] == [OSError, BadImageError, ValueError]
    assert results[3] == 30 and results[5:] == [10 * number for number in range(5, 20)]
    assert most == 2 and live == 0


def test_the_end_of_a_server_whose_patience_is_over():
    """It cancels what waits, and so does a client that is gone."""
    worker = Worker(lambda images: images, 1, 10)
    first, second = worker.submit([lambda: (1, '')] * 2)
    assert first.cancel()
    worker.start()
    assert second.result(5) == 1
    worker = Worker(lambda images: images, 1, 10)
    first, second = worker.submit([lambda: (1, '')] * 2)
    assert first.cancel()
    worker.refuse()
    assert isinstance(second.exception(0), Busy) and first.cancelled()


def test_what_waits_is_refused_when_the_server_is_told_to_stop(scorer):
    """At once, while what is in the model is answered."""
    go_on, begun, statuses = threading.Event(), [], []

    class Slow:
        def __getattr__(self, name):
            return getattr(scorer, name)

        def read(self, upload):
            begun.append(upload)
            return scorer.read(upload)

        def score(self, images):
            assert go_on.wait(20)
            return scorer.score(images)

    def ask():
        statuses.append(post(client, [('a.jpg', jpeg())]).status_code)

    app = create_app(Slow(), batch_size=1)
    with httpx.Client(timeout=30) as client, serving(app) as address:
        client.base_url = address
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(1000):  # until 1 is in the model, 1 read, 1 waits for its place, and 3 in the queue
            if len(begun) == 3 and app.state.worker._waiting.qsize() == 3:
                break
            time.sleep(0.01)
        threading.Timer(1, go_on.set).start()
    for thread in threads:
        thread.join(20)
    assert statuses == [503] * 3 + [200] * 3


def test_what_outlasts_the_patience_of_a_server_is_refused(scorer, caplog):
    go_on, statuses = threading.Event(), []

    class Slow:
        def __getattr__(self, name):
            return getattr(scorer, name)

        def score(self, images):
            assert go_on.wait(20)
            return scorer.score(images)

    def ask():
        statuses.append(httpx.post(f'{address}/predict', files=dict(files=('a.jpg', jpeg())), timeout=30).status_code)

    app = create_app(Slow(), batch_size=1)
    with serving(app, timeout_graceful_shutdown=0.5) as address:
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        threading.Timer(1.5, go_on.set).start()
    for thread in threads:
        thread.join(20)
    assert statuses == [503, 503] and caplog.records
    assert not [record for record in caplog.records if record.exc_info]


def test_the_end_of_a_server_answers_what_waits(scorer):
    """A server that stops fails what waits at once, in place of leaving clients without an answer."""
    entered, go_on = threading.Event(), threading.Event()

    def score(images):
        entered.set()
        assert go_on.wait(20)
        return images

    worker = Worker(score, 1, 10)
    worker.start()
    (first,) = worker.submit([lambda: (1, '')])
    assert entered.wait(20)
    rest = worker.submit([lambda: (2, '')] * 5)
    threading.Timer(0.2, go_on.set).start()
    worker.close()
    assert first.result(5) == 1
    results = [future.exception(5) or future.result() for future in rest]
    assert results[-1].__class__ is Busy and all(result == 2 or isinstance(result, Busy) for result in results)
    with pytest.raises(Busy):
        worker.submit([lambda: (3, '')])
