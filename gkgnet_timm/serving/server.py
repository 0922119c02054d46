"""The server on an address of this machine, until Ctrl-C."""

import ipaddress
import socket
import sys
from contextlib import suppress
from typing import Any, List, Optional, Sequence, Union

import torch.nn as nn
import uvicorn
from fastapi import FastAPI

from ..explanation.explain import explain, has_label_graph, has_patch_graph
from ..runtime import UserError
from .app import create_app
from .explainer import Explainer
from .scorer import Scorer

__all__ = ['Server', 'bind', 'create_server', 'is_loopback', 'run', 'url_of']

GRACE = 10  # seconds for which requests may go on after Ctrl-C


def bind(host: str, port: int) -> socket.socket:
    """Take an address.

    Raises:
        UserError: If it is not one of this machine, or is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        if sys.platform != 'win32':  # where it would let two servers have one port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen()  # two processes may bind one port, but not both listen
        return taken
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'Cannot listen on {host}, port {port}: {reason}. Give another --port, or --host.') from error


def is_loopback(address: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(address.getsockname()[0].partition('%')[0]).is_loopback


def url_of(address: socket.socket) -> str:
    host, port = address.getsockname()[:2]
    return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


class Server(uvicorn.Server):
    """A server that refuses what waits as soon as it is told to stop."""

    async def shutdown(self, sockets: Optional[List[socket.socket]] = None) -> None:
        self.config.app.state.worker.refuse()
        await super().shutdown(sockets)


def run(app: FastAPI, address: socket.socket) -> None:
    """Answer requests until Ctrl-C, and then those that are under way."""
    config = uvicorn.Config(
        app, log_level='warning', access_log=False, server_header=False, timeout_graceful_shutdown=GRACE
    )
    server = Server(config)
    print(f'Listening on {url_of(address)} (Ctrl-C stops it).', flush=True)
    if not is_loopback(address):
        print(
            'Whoever reaches this machine over the network can use the server: it asks for no password and encrypts '
            'nothing.',
            file=sys.stderr,
            flush=True,
        )
    with suppress(KeyboardInterrupt):  # which is how a server ends, unless a script started it in the background
        server.run(sockets=[address])
    if server.should_exit:
        print('Stopped.')


def create_server(
    model: nn.Module,
    names: Sequence[str],
    thresholds: Union[float, Sequence[float]],
    *,
    name: str,
    max_upload: int,
    queue: int,
    batch_size: int,
    **how: Any,
) -> FastAPI:
    """Create the application for a model: see `create_app`, and `Scorer` for how the model runs."""
    scorer = Scorer(model, names, thresholds, **how)
    explainer = Explainer(scorer, explain, has_patch_graph(model)) if has_label_graph(model) else None
    options = dict(max_upload=max_upload, queue=queue, batch_size=batch_size)
    return create_app(scorer, name=name, explainer=explainer, **options)
