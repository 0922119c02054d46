"""A process that has imported torch, which takes most of the time of a start: scripts run in forks of it.

It knows no setting and has imported nothing that reads one: neither timm nor huggingface_hub, nor this package.
"""

import json
import os
import runpy
import select
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from forked import fork


def _run(argv, cwd, environment, guard):
    """Run a script as a fresh interpreter does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv[:] = argv
    sys.path[:0] = [str(Path(argv[0]).parent), *filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))]
    exec(guard, {})  # as its sitecustomize.py, which is for processes that it starts
    runpy.run_path(argv[0], run_name='__main__')


def _answer(connection):
    """Read a request, run it in a process of its own, and answer with its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile('rw') as stream:
        *request, stdout, stderr = json.loads(stream.readline())
        with open(stdout, 'w') as out, open(stderr, 'w') as err:
            process = fork(partial(_run, *request), out.fileno(), err.fileno())
        _, status = os.waitpid(process, 0)
        stream.write(f'{os.waitstatus_to_exitcode(status)}\n')


def serve(path):
    """Answer requests on a socket, several at a time, until stdin ends."""
    sys.path.remove(str(Path(__file__).parent))
    import torch._dynamo  # noqa: F401
    import torchvision  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print('ready', flush=True)
        while sys.stdin not in select.select([sys.stdin, server], [], [])[0]:
            connection, _ = server.accept()
            fork(partial(_answer, connection))
            connection.close()


if __name__ == '__main__':
    serve(sys.argv[1])
