"""Imitate Google Drive on loopback: a page of confirmation with hidden fields, then the file, and its bad answers."""

import http.server
import re
import threading
from pathlib import Path
from typing import List, Optional
from urllib.parse import parse_qs, urlsplit

CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{action}" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b-1"></form></html>"""
PAGES = {
    'quota': '<html><title>Google Drive - Quota exceeded</title>Too many users have viewed this file</html>',
    'sign in': '<html><a href="https://accounts.google.com/ServiceLogin">Sign in</a></html>',
    'page': '<html><body>Something new</body></html>',
}
PLACES = {'elsewhere': 'http://127.0.0.1:9/uc', 'nowhere': '', 'no address': 'http://[bad/', 'round': '/uc?id=1'}


class FakeDrive:
    """Serve a file. Set `answer` to one of PAGES or of the faults of `Handler.file`; `requests` says what was asked.

    Args:
        path: The file, read anew at each request.
    """

    def __init__(self, path: Path):
        self.path = path
        self.answer: Optional[str] = None
        self.cut: Optional[int] = None  # bytes of the body after which the connection ends
        self.requests: List[str] = []
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.drive = self
        self.endpoint = f'http://127.0.0.1:{self.server.server_port}'

    def __enter__(self) -> 'FakeDrive':
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args) -> None:
        pass

    def page(self, text: str, status: int = 200) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        drive, (_, _, path, query, _) = self.server.drive, urlsplit(self.path)
        drive.requests.append(f'{path} {self.headers.get("Range", "")}'.strip())
        fields = {key: value[0] for key, value in parse_qs(query).items()}
        if drive.answer in PAGES:
            self.page(PAGES[drive.answer])
        elif drive.answer == 'missing' or 'id' not in fields:
            self.page('<html>Not found</html>', 404)
        elif drive.answer in PLACES:
            self.send_response(302)
            if PLACES[drive.answer]:
                self.send_header('Location', PLACES[drive.answer])
            self.send_header('Content-Length', '0')
            self.end_headers()
        elif path == '/uc' and drive.answer != 'direct':
            self.page(CONFIRM.format(action='/download', id=fields['id']))
        elif path == '/download' and (fields.get('confirm'), fields.get('uuid')) != ('t', 'a&b-1'):
            self.page(PAGES['page'])
        else:
            self.file(drive)

    def file(self, drive: FakeDrive) -> None:
        """Faults: 'no parts' ignores Range, 'no length', 'wrong length' announces more than there is."""
        content = drive.path.read_bytes()
        length = len(content) + (1000 if drive.answer == 'wrong length' else 0)
        asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        start = int(asked[1]) if asked and drive.answer != 'no parts' else 0
        self.send_response(206 if start else 200)
        self.send_header('Content-Type', 'application/octet-stream')
        self.send_header('Set-Cookie', 'seen=1')
        self.send_header('Content-Disposition', 'attachment; filename="GKGNet-576.pth"')
        if start:
            self.send_header('Content-Range', f'bytes {start}-{length - 1}/{length}')
        if drive.answer != 'no length':
            self.send_header('Content-Length', str(length - start))
        self.send_header('Connection', 'close')
        self.end_headers()
        self.close_connection = True
        end = len(content) if drive.cut is None else start + drive.cut
        for place in range(start, min(end, len(content)), 1 << 20):
            try:
                self.wfile.write(content[place : min(place + (1 << 20), end)])
            except OSError:  # the other side has what it wanted, or was killed
                return
