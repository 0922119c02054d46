"""Processes that start in no time, as all modules have been imported."""

import multiprocessing.util
import os
import sys
import traceback


def fork(function, stdout=None, stderr=None):
    """Run a function in a forked process, with file descriptors as its stdout and stderr; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        for number, name, descriptor in ((1, 'stdout', stdout), (2, 'stderr', stderr)):
            if descriptor is not None:
                os.dup2(descriptor, number)
                buffering = 1 if name == 'stderr' else -1  # as the interpreter has them
                setattr(sys, name, os.fdopen(number, 'w', buffering, closefd=False))
        function()
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        # as the interpreter does at its end: locks that are not released are told of from Python 3.14
        multiprocessing.util._exit_function()
        try:
            sys.stderr.flush()
            sys.stdout.flush()
        except OSError:
            code = 120
        os._exit(code)
