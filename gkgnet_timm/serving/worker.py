"""The queue in front of the model: one thread reads images, another runs the model over batches of them."""

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from ..data import BadImageError

__all__ = ['Busy', 'Job', 'Worker']

PATIENCE = 0.004  # seconds for which a batch waits for more images
ALONE = 2  # images with work of their own that are in memory at a time: they have their full size


class Busy(Exception):
    """The queue is full, or the server is about to stop."""


class Job(NamedTuple):
    """What is to be done with an image.

    Attributes:
        read: Returns what comes of the upload, and '' or why it cannot be read.
        work: What is done with a list of it alone, None for the model's scores in a batch with others.
        future: Result of the job. A `BadImageError` if the image cannot be read.
    """

    read: Callable[[], Tuple[Any, str]]
    work: Optional[Callable[[List[Any]], List[Any]]]
    future: Future[Any]


class Worker:
    """Runs jobs in two threads, of which one reads while the other computes.

    Args:
        score: Scores a list of what was read.
        batch_size: Largest number of images in a batch.
        limit: Images that may wait.
    """

    def __init__(self, score: Callable[[List[Any]], Sequence[Any]], batch_size: int, limit: int):
        self.score = score
        self.batch_size = batch_size
        self.limit = limit
        self._waiting: queue.Queue = queue.Queue()
        self._ready: queue.Queue = queue.Queue(batch_size)  # a slow model keeps images from being read
        self._lock, self._closed = threading.Lock(), False
        self._alone = threading.Semaphore(ALONE)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._compute)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_full(self) -> bool:
        """Whether not even one more image may wait."""
        return self._closed or self._waiting.qsize() >= self.limit

    def submit(
        self, reads: Sequence[Callable[[], Tuple[Any, str]]], work: Optional[Callable[[Any], Any]] = None
    ) -> List[Future[Any]]:
        """Queue images, all of them or none, for the scores of the model, or for other work on each alone.

        Raises:
            Busy: If they do not fit into the queue.
        """
        alone = work and (lambda found: list(map(work, found)))
        jobs = [Job(read, alone, Future()) for read in reads]
        with self._lock:
            if self._closed or self._waiting.qsize() + len(jobs) > self.limit:
                raise Busy
            for job in jobs:
                self._waiting.put(job)
        return [job.future for job in jobs]

    def refuse(self) -> None:
        """Take no more jobs. What still waits fails with `Busy`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            while not self._waiting.empty():
                future = self._waiting.get().future
                if future.set_running_or_notify_cancel():  # a server that has lost patience cancels some
                    future.set_exception(Busy())
            self._waiting.put(None)

    def close(self, patience: float = 10.0) -> None:
        """Take no more jobs, see `refuse`, and end the threads."""
        self.refuse()
        for thread in self._threads:
            thread.join(patience)

    def _read(self) -> None:
        while (job := self._waiting.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._read_one(job)
        self._ready.put(None)

    def _read_one(self, job: Job) -> None:  # a function, so that nothing refers to the image once it is handed on
        if job.work is not None:
            self._alone.acquire()
            job.future.add_done_callback(lambda _: self._alone.release())
        try:
            found, error = job.read()
        except Exception as failure:
            job.future.set_exception(failure)
            return
        if error:
            job.future.set_exception(BadImageError(error))
        else:
            self._ready.put((job, found))

    def _batch(self) -> List[Tuple[Job, Any]]:
        """Wait for a job, then a little for more. Empty at the end of all."""
        batch = []
        until = None
        while len(batch) < self.batch_size:
            try:
                item = self._ready.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch
            if item is None:
                self._ready.put(None)  # for the next call
                return batch
            batch.append(item)
            until = until or time.monotonic() + PATIENCE
        return batch

    def _compute(self) -> None:
        while batch := self._batch():
            together = [item for item in batch if item[0].work is None]
            batch = [item for item in batch if item[0].work is not None]
            if together:
                self._finish(self.score, together)
            while batch:  # an image goes when its work is done
                self._finish(batch[0][0].work, [batch.pop(0)])

    @staticmethod
    def _finish(compute: Callable[[List[Any]], Sequence[Any]], batch: List[Tuple[Job, Any]]) -> None:
        try:
            results = compute([found for _, found in batch])
        except Exception as failure:
            for job, _ in batch:
                job.future.set_exception(failure)
            return
        for (job, _), result in zip(batch, results):
            job.future.set_result(result)
