"""Run the blocks of a page, in a process for the page that forks one for each command."""

import csv
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from functools import partial
from pathlib import Path
from typing import Dict, List

from blocks import Block, Command, compile_block, parser_of, read_blocks, read_commands, split_command
from conftest import save_image
from fake_hub import GUARD
from forked import fork
from runs import NARROW_MODEL, TINY
from serving import command, free_port, ranks_of_torchrun

from gkgnet_timm.__main__ import COMMANDS
from gkgnet_timm.benchmark import floor, measure
from gkgnet_timm.commands import selftest
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.data.demo import SHAPES, demo_root
from gkgnet_timm.selftest import run
from gkgnet_timm.selftest.speed import Load

RUN = Path('output', 'train', 'demo')
ADDRESS = '127.0.0.1:7860'  # of serve in the pages
SHELL = ('cat', 'cp', 'curl', 'head', 'ls', 'mkdir', 'mv', 'rm')
SMALL_TRAINING = '--img-size 32 -b 8 --epochs 1 -j 0 --device cpu'.split()
SMALL_BENCHMARK = '--models gkgnet_ti_224 --img-sizes 64 --repeat 1 -b 1'.split()


def make_world(folder: str) -> None:
    """What every page finds: pictures, tables of them, a run of training, and in the cache a small demo set."""
    os.chdir(folder)
    demo_root({'train': 19, 'val': 11})
    names = [f'{i}.png' for i in range(12)]
    for i, name in enumerate([*names, 'a.jpg']):
        save_image(Path('photos', name), i)
    classes = list(SHAPES)
    rows = [(name, f'{classes[i % 8]};{classes[(i + 3) % 8]}') for i, name in enumerate(names)]
    for table, part in (('train.csv', rows[:8]), ('val.csv', rows[8:]), ('labels.csv', rows)):
        with open(table, 'w', newline='') as file:
            csv.writer(file).writerows([('file', 'labels'), *part])
    command('train', '--experiment', 'demo', *TINY, '--img-size', '64')


def make_small(argv: List[str]) -> List[str]:
    """Add flags to a command line of the package that make it fast."""
    if argv[0] == 'train':
        config, resume = parse_flags(argv[1:])
        if resume:
            return argv
        if config.experiment == RUN.name:
            shutil.rmtree(RUN)  # of the world, which stands for this one
        argv = argv + SMALL_TRAINING
        if re.fullmatch(r'(gkgnet|pvig)_(\w+_)?\d+', config.model.partition('.')[0]):
            given = [f'{key}={value}' for key, value in config.model_kwargs.items()]
            argv += [NARROW_MODEL[0], *given, *NARROW_MODEL[1:]]
    elif argv[0] == 'benchmark':
        argv = argv + SMALL_BENCHMARK
        argv += ['--compare', 'test_vit'] * ('--compare' in argv) + ['--compile', 'eager'] * ('--compile' in argv)
    elif argv[0] == 'explain' and not {'--labels', '--patch', '--threshold', '--topk'} & {*argv}:
        argv = [*argv, '--topk', '1']
    elif argv[0] in COMMANDS and '-j' in parser_of(argv[0])._option_string_actions and '-j' not in argv:
        argv = [*argv, '-j', '0']
    return argv


class Page:
    """The process of a page: the names of its Python, and its server, if it starts one."""

    def __init__(self):
        self.module = types.ModuleType('__main__')
        sys.modules['__main__'] = self.module  # classes of a page are found there
        self.server = None
        self.port = free_port()

    def run(self, block: Block) -> None:
        block = block._replace(code=block.code.replace(ADDRESS, f'127.0.0.1:{self.port}'))
        if block.language == 'python':
            exec(compile_block(block), vars(self.module))
            return
        for step in read_commands(block):
            print(f'$ {shlex.join(step.words)}', flush=True)
            try:
                code = self.start(step)
            except Exception as error:
                raise ValueError(f'{step.place}: {shlex.join(step.words)}') from error
            if code:
                sys.exit(f'{step.place}: {shlex.join(step.words)}: exit status {code}')

    def start(self, step: Command) -> int:
        words, argv = split_command(step.words)
        variables = {}
        while words and (match := re.fullmatch(r'([A-Z_]+)=(.*)', words[0])):
            variables[match[1]] = match[2]
            words = words[1:]
        if argv is not None:
            return self.start_ours(words, make_small(argv), variables, step.output)
        if words[0] == 'cd':
            os.chdir(words[1])
            return 0
        if words[0] == 'pip':
            return 0  # `test_blocks` has looked whether all is there
        if words[0] not in SHELL:
            raise ValueError(f'no program of a page: {words[0]!r}')
        with open(step.output or os.devnull, 'w') as file:
            words += ['--silent', '--show-error', '--fail'] * (words[0] == 'curl')
            return subprocess.run(words, stdout=file).returncode

    def start_ours(self, starts: List[str], argv: List[str], variables: Dict[str, str], output: str) -> int:
        program = 'gkgnet-timm' if not starts else ('train_multilabel.py', 'validate.py')[argv[0] == 'validate']
        count = 1
        if starts and starts[0] == 'torchrun':
            count = min(2, int(starts[starts.index('--nproc_per_node') + 1]))
        elif starts not in ([], ['python'], ['python', '-m']):
            raise ValueError(f'no program of a page: {shlex.join(starts)}')
        if argv[0] == 'serve':
            argv = argv + ['--port', self.port]
        sys.argv = [program]
        processes = []
        for environment in ranks_of_torchrun(count) if count > 1 else [{}]:
            processes.append(fork(partial(self.command, environment | variables, argv, output)))
        if argv[0] == 'serve':
            self.stop()
            self.server = processes[0]
            return self.wait_for_server()
        return max([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes], key=abs)

    @staticmethod
    def command(environment: Dict[str, str], argv: List[str], output: str) -> None:
        os.environ.update(environment)
        if output:
            sys.stdout = open(output, 'w')
        command(*argv)

    def wait_for_server(self) -> int:
        for _ in range(600):
            process, status = os.waitpid(self.server, os.WNOHANG)
            if process:
                self.server = None
                return os.waitstatus_to_exitcode(status) or 1
            try:
                socket.create_connection(('127.0.0.1', int(self.port))).close()
                return 0
            except OSError:
                time.sleep(0.1)
        return 1

    def stop(self) -> None:
        """End the server as Ctrl-C does."""
        if self.server:
            os.kill(self.server, signal.SIGINT)
            os.waitpid(self.server, 0)
            self.server = None


def run_page(name: str, folder: str) -> None:
    """Run the blocks of a page that are not exempt, in a folder."""
    os.chdir(folder)
    exec(GUARD, {})
    # as in the tests of these commands: small images, a process less for each figure, no long search for the floor
    selftest.selftest = partial(run.selftest, img_size=64, load=Load('gkgnet_ti_224', 32, 1, 2))
    measure._in_fresh_process = lambda function, *args: function(*args)
    floor.MAX_SECONDS = 0.0
    page = Page()
    try:
        for block in read_blocks(name):
            if block.language in ('bash', 'python') and not block.reason:
                page.run(block)
    finally:
        page.stop()
