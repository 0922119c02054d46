"""Requests that are refused before their body is read, or while it is."""

import asyncio
import json
from contextlib import suppress
from typing import Callable, Mapping, Optional

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ['BUSY', 'RETRY', 'UploadLimit']

RETRY = {'retry-after': '1'}
BUSY = 'Too many images are waiting: try again in a second.'
LINGER = 5.0  # seconds for which a refused upload is still received, and thrown away


class UploadLimit:
    """Middleware that answers 413 to bodies that are too large, whether or not they say so, and 503 if it is busy.

    Args:
        app: The application.
        limit: Largest body in bytes.
        is_busy: Whether uploads are refused for now.
    """

    def __init__(self, app: ASGIApp, limit: int, is_busy: Callable[[], bool]):
        self.app, self.limit, self.is_busy = app, limit, is_busy
        self.sentence = f'The upload is larger than the {limit / 1e6:g} MB that this server takes.'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http' or scope['method'] != 'POST':
            await self.app(scope, receive, send)
            return
        if self.is_busy():
            await _refuse(receive, send, 503, BUSY, RETRY)
            return
        length = Headers(scope=scope).get('content-length', '0')
        if not length.isdigit() or int(length) > self.limit:
            await _refuse(receive, send, 413, self.sentence)
            return
        received, is_refused, is_complete = 0, False, False

        async def count() -> Message:
            nonlocal received, is_refused, is_complete
            message = await receive()
            is_complete = not message.get('more_body')
            received += len(message.get('body', b''))
            if received > self.limit:
                is_refused = True
                raise HTTPException(413)  # ends the parser, whose answer is not sent
            return message

        async def unless_refused(message: Message) -> None:
            if not is_refused:
                await send(message)

        await self.app(scope, count, unless_refused)
        if is_refused:
            await _refuse(None if is_complete else receive, send, 413, self.sentence)


async def _refuse(
    receive: Optional[Receive], send: Send, status: int, sentence: str, headers: Optional[Mapping[str, str]] = None
) -> None:
    """Answer, and then throw away what `receive` still gives, unless the body has been received."""
    body = json.dumps({'detail': sentence}).encode()
    fields = {'content-type': 'application/json', 'content-length': str(len(body)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({'type': 'http.response.start', 'status': status, 'headers': pairs})
    await send({'type': 'http.response.body', 'body': body, 'more_body': True})
    if receive:
        # many clients read no answer before they have sent all, and take a closed connection for a failure
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_throw_away(receive), LINGER)
    await send({'type': 'http.response.body', 'body': b''})


async def _throw_away(receive: Receive) -> None:
    while (await receive()).get('more_body'):
        pass
