"""A process that has imported the package: what it forks are processes of their own that start in no time."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import NamedTuple

from forked import fork

IMPORTED = ['gkgnet_timm.commands.train', 'gkgnet_timm.commands.validate', 'gkgnet_timm.models', 'torch._dynamo']
IMPORTED += ['matplotlib.backends.backend_agg', 'matplotlib.figure']
GLOO = re.compile(r'^\[Gloo\] Rank .*\n', re.MULTILINE)  # torch 2.10 says on stdout that ranks have met


class Result(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Server:
    """Calls functions of test modules, each in a fork of one process. They take and return nothing but JSON and text.

    Args:
        root: Folder for what they print.
    """

    def __init__(self, root):
        self.root = root
        self._process = subprocess.Popen(
            [sys.executable, '-c', f'import {__name__}; {__name__}.serve()'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1'},
        )

    def call(self, function, *args, **kwargs):
        """Call a function in a process of its own; returns its exit code and what it printed."""
        return self.call_together([{}], function, *args, **kwargs)[0]

    def call_together(self, environments, function, *args, **kwargs):
        """Call a function in several processes at a time, which differ by variables of their environments."""
        streams = [[str(self.root / f'{name}-{i}') for name in ('stdout', 'stderr')] for i in range(len(environments))]
        request = [function.__module__, function.__name__, args, kwargs, environments, streams]
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        texts = [[GLOO.sub('', open(path).read()) for path in paths] for paths in streams]
        return [Result(code, *text) for code, text in zip(codes, texts)]

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def ranks_of_torchrun(count=2):
    """The environments of processes on one machine, as torchrun makes them."""
    shared = dict(WORLD_SIZE=str(count), MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    return [dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]


def ranks_of_slurm(count=2):
    """The environments of processes on one machine, as SLURM makes them, with an address for all of them."""
    shared = dict(SLURM_NTASKS=str(count), MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    return [dict(shared, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(count)]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def command(*argv):
    """Run a command of the package."""
    importlib.import_module('gkgnet_timm.__main__').main(list(argv))


def _call(environment, function, args, kwargs):
    os.environ.update(environment)
    function(*args, **kwargs)


def serve():
    """Fork a process for each environment in a line of stdin, and answer with their exit codes. One ends, all end."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        module, name, args, kwargs, environments, streams = json.loads(line)
        function = getattr(importlib.import_module(module), name)
        processes = []
        for environment, paths in zip(environments, streams):
            files = [open(path, 'w') for path in paths]
            processes.append(
                fork(partial(_call, environment, function, args, kwargs), *(file.fileno() for file in files))
            )
            for file in files:
                file.close()
        codes = {}
        while len(codes) < len(processes):
            process, status = os.wait()
            codes[process] = os.waitstatus_to_exitcode(status)
            if codes[process]:  # the others would wait for it
                for other in set(processes) - codes.keys():
                    os.kill(other, signal.SIGKILL)
        print(json.dumps([codes[process] for process in processes]), flush=True)
