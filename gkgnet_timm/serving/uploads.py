"""Requests that are refused before their body is read, or while it is."""

import asyncio
from typing import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ['BUSY', 'RETRY', 'UploadLimit']

RETRY = {'retry-after': '1'}
BUSY = 'Too many images are waiting: try again in a second.'


class UploadLimit:
    """Middleware that answers 413 to bodies that are too large, whether or not they say so, and 503 if it is busy.

    Args:
        app: The application.
        limit: Largest body in bytes.
        is_busy: Whether uploads are refused for now.
    """

    def __init__(self, app: ASGIApp, limit: int, is_busy: Callable[[], bool]):
        self.app = app
        self.limit = limit
        self.is_busy = is_busy
        sentence = f'The upload is larger than the {limit / 1e6:g} MB that this server takes.'
        self.refusal: JSONResponse = JSONResponse({'detail': sentence}, 413)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http' or scope['method'] != 'POST':
            await self.app(scope, receive, send)
            return
        if self.is_busy():
            await JSONResponse({'detail': BUSY}, 503, RETRY)(scope, receive, send)
            return
        length = Headers(scope=scope).get('content-length', '0')
        if not length.isdigit() or int(length) > self.limit:
            await self.refusal(scope, receive, send)
            return
        received, is_refused, has_begun = 0, False, False

        async def count() -> Message:
            nonlocal received, is_refused
            message = await receive()
            received += len(message.get('body', b''))
            if received > self.limit:
                is_refused = True
                raise HTTPException(413)  # ends the parser, whose answer is not sent
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal has_begun
            if not is_refused:
                has_begun = True
                await send(message)

        try:
            await self.app(scope, count, unless_refused)
        except asyncio.CancelledError:  # the server stops, and this takes longer than it waits
            if has_begun:
                raise
            await JSONResponse({'detail': BUSY}, 503, RETRY)(scope, receive, send)
        if is_refused:
            await self.refusal(scope, receive, send)
