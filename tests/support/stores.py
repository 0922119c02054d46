"""A web server on loopback whose images behave as those of real stores do on a bad day."""

import http.server
import threading
from collections import Counter
from pathlib import Path
from typing import Any


class ImageServer:
    """Serves the files of a folder at /NAME, and what begins with one of these words in its own way.

    /broken/N/NAME answers 503 to the first N requests; /reset/N/NAME closes the connection; /short/N/NAME sends half of
    the body, and so does /ranges/N/NAME, of the range asked for; /status/N/NAME answers N always, with a redirect to
    the URL `elsewhere` for 302; /hang/NAME never answers; /endless/NAME sends a body without end.

    Attributes:
        url: Address, without a slash at the end.
        requests: How often each path was asked for, with its query.
        sent: Bytes of endless bodies.
    """

    def __init__(self, folder: Path):
        self.folder, self.requests, self.sent, self.elsewhere = folder, Counter(), 0, ''
        self.closing = threading.Event()
        handler = type('Handler', (_Handler,), dict(owner=self))
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self) -> 'ImageServer':
        threading.Thread(target=self._server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: ImageServer
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        count = self.owner.requests[self.path]
        self.owner.requests[self.path] += 1
        way, *rest = self.path.partition('?')[0].strip('/').split('/')
        name, number = (rest or [way])[-1], int(rest[0]) if len(rest) > 1 else 0
        body = b''
        if (self.owner.folder / name).is_file():
            body = (self.owner.folder / name).read_bytes()
        try:
            if way == 'hang':
                self.owner.closing.wait(60)
                self.close_connection = True
            elif way == 'endless':
                self._endless()
            elif way == 'status':
                self._send(number, b'')
            elif way == 'broken' and count < number:
                self._send(503, b'busy')
            elif way == 'reset' and count < number:
                self.close_connection = True
            elif way == 'ranges':
                start = int(self.headers.get('Range', 'bytes=0-')[len('bytes=') : -1])
                self._send(206 if start else 200, body[start:], short=count < number)
            else:
                self._send(200 if body else 404, body, short=way == 'short' and count < number)
        except ConnectionError:
            self.close_connection = True  # the client has gone

    def _send(self, status: int, body: bytes, short: bool = False) -> None:
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        if status == 302:
            self.send_header('Location', self.owner.elsewhere)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if short else body)
        self.close_connection = short

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while not self.owner.closing.is_set():
            self.wfile.write(bytes(1 << 16))
            self.owner.sent += 1 << 16
