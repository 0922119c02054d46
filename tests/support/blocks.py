"""Code in the pages: blocks, the commands in them, and code in the text. As a program: a table of what no test runs."""

import configparser
import functools
import importlib
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from packaging.requirements import Requirement

from gkgnet_timm.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *ROOT.glob('docs/**/*.md'))
    if path.is_file()
)
OWN_TESTS = {  # they compare what their page says with what is printed, and run all of its blocks that are not exempt
    'docs/first-day.md': 'tests/commands/test_first_day.py',
    'docs/your-data.md': 'tests/commands/test_your_data.py',
}
LANGUAGES = ('bash', 'python', 'console', 'text', 'yaml', 'toml', 'json', 'cpp', 'bibtex', '')
REASONS = ('network', 'GPU', 'data', 'installs', 'machines')
SCRIPTS = {'train_multilabel.py': 'train', 'validate.py': 'validate'}
FENCE = re.compile(r'^( *)(```+)([^`\n]*)\n(.*?)^ *\2$', re.S | re.M)
NOT_RUN = re.compile(r'<!-- not run: (.*?) -->')
SPAN = re.compile(r'(?<!`)(`+)(?!`)((?:(?!\n\n).)+?)(?<!`)\1(?!`)', re.S)
FLAG = re.compile(r'(?<![\w-])--[a-z][\w-]*')
OTHERS = ('curl', 'git', 'hf', 'mkdocs', 'pip', 'pre-commit', 'pytest', 'ruff', 'srun', 'torchrun', 'uv')  # programs


class Block(NamedTuple):
    """A fenced block; `line` is that of its first line of code, `reason` says why it is not run."""

    page: str
    line: int
    language: str
    code: str
    reason: Optional[str]


class Command(NamedTuple):
    """A command of a bash block, and the file that its output goes to."""

    place: str
    words: List[str]
    output: Optional[str]


def read_blocks(page: str) -> List[Block]:
    """All fenced blocks of a page, with what the comments on the lines before them say."""
    text, blocks = (ROOT / page).read_text(encoding='utf-8'), []
    for match in FENCE.finditer(text):
        indent, _, language, code = match.groups()
        comments = re.search(r'(?:^ *<!--.*-->\n)*\Z', text[: match.start()], re.M)[0]
        reason = NOT_RUN.search(comments.replace('<!-- test -->', '<!-- not run: installs, `.ci/run` runs it -->'))
        line = text.count('\n', 0, match.start()) + 2
        code = re.sub(rf'^{indent}', '', code, flags=re.M)
        blocks.append(Block(page, line, language.partition(' ')[0], code, reason and reason[1]))
    return blocks


def read_commands(block: Block) -> Iterator[Command]:
    """The commands of a bash block.

    Raises:
        ValueError: If one is no shell, or not plain and to be run.
    """
    number = block.line
    for line in block.code.replace('\\\n', '\0').split('\n'):
        place, number = f'{block.page}:{number}', number + 1 + line.count('\0')
        lexer = shlex.shlex(line.replace('\0', ' '), posix=True, punctuation_chars='&;<>|()')
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError as error:
            raise ValueError(f'{place}: {error}') from None
        if not block.reason and re.search(r'[$`;|]|<|(?<!&)&(?!&)', re.sub(r"'[^']*'|(^|\s)#.*", '', line)):
            raise ValueError(f'{place}: words, && and > are run, not {line.strip()!r}')
        while words:
            end = next((i for i, word in enumerate(words) if re.fullmatch('[&;|()]+', word)), len(words))
            command, words = words[:end], words[end + 1 :]
            output = command[command.index('>') + 1] if '>' in command else None
            if command := command[: command.index('>')] if output else command:
                yield Command(place, command, output)


def split_command(words: List[str]) -> Tuple[List[str], Optional[List[str]]]:
    """What starts a command of the package, and its arguments; None if the words are no command of the package."""
    for i, word in enumerate(words if words[0] != 'pip' else []):
        if word == 'gkgnet-timm' or words[i - 1 : i + 1] == ['-m', 'gkgnet_timm']:
            return words[:i], words[i + 1 :]
        if word in SCRIPTS:
            return words[:i], [SCRIPTS[word], *words[i + 1 :]]
    return words, None


def parser_of(command: str):
    return importlib.import_module(f'gkgnet_timm.commands.flags.{command.replace("-", "_")}').create_parser()


def parse_flags(words: List[str]) -> None:
    """Parse the flags of a command of the package without running it; raises a ValueError if they are wrong."""
    _, argv = split_command(words)
    if argv is None or argv == ['--version']:
        return
    if argv[0] not in COMMANDS:
        raise ValueError(f'no command {argv[0]!r}')
    parser_of(argv[0]).parse_args(argv[1:])


def needed_packages(words: List[str]) -> List[str]:
    """The packages that a command of pip installs beside ours; raises a KeyError for an unknown extra."""
    if words[:2] != ['pip', 'install']:
        return []
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    names = []
    for word in (word for word in words[2:] if not word.startswith('-')):
        item = Requirement(re.sub(r'^\.', 'gkgnet-timm', word))
        if item.name == 'gkgnet-timm':
            for extra in item.extras:
                names += needed_packages(['pip', 'install', *config['options.extras_require'][extra].split('\n')[1:]])
        else:
            names.append(item.name)
    return names


def check_exempt(block: Block) -> None:
    """Raise an exception unless the reason is one of the list, Python compiles, and flags exist."""
    if re.split(r'\W', block.reason)[0] not in REASONS:
        raise ValueError(f'{block.page}:{block.line}: not run: {block.reason!r}, expected one of {", ".join(REASONS)}')
    if block.language == 'python':
        compile_block(block)
    if block.language == 'bash':
        for command in read_commands(block):
            try:
                parse_flags(command.words)
                needed_packages(command.words)
            except (ValueError, KeyError) as error:
                raise ValueError(f'{command.place}: {shlex.join(command.words)}: {error}') from None


def compile_block(block: Block):
    """Code whose errors name page and line."""
    return compile('\n' * (block.line - 1) + block.code, str(ROOT / block.page), 'exec')


def read_spans(page: str) -> Iterator[Tuple[str, str]]:
    """Inline code of a page, each with its place."""
    text = (ROOT / page).read_text(encoding='utf-8')
    text = FENCE.sub(lambda match: '\n' * match[0].count('\n'), text)
    for match in SPAN.finditer(text):
        yield f'{page}:{text.count(chr(10), 0, match.start()) + 1}', ' '.join(match[2].split())


@functools.lru_cache(maxsize=None)
def flags_of(command: str) -> FrozenSet[str]:
    return frozenset(parser_of(command)._option_string_actions)


def unknown_flags(span: str) -> List[str]:
    """Flags in inline code that no command has, or not the one that is named; a command that does not exist."""
    words = span.split()
    if words[0] in OTHERS or words[0].startswith('.ci/'):
        return []
    _, argv = split_command(words)
    if argv is None and words[0] in COMMANDS:
        argv = words
    commands = list(COMMANDS)
    if argv and re.fullmatch('[a-z][a-z-]*', argv[0]):  # not COMMAND, X or ...
        commands = [argv[0]]
        if argv[0] not in COMMANDS:
            return commands
    known = frozenset(['--version', '--help']).union(*map(flags_of, commands))
    return [flag for flag in FLAG.findall(span) if flag not in known]


def table() -> str:
    """How many blocks are run, and which are not."""
    lines = ['| page | blocks run | not run | reasons |', '|---|---|---|---|']
    total: Counter = Counter()
    for page in PAGES:
        blocks = [block for block in read_blocks(page) if block.language in ('bash', 'python', 'console')]
        if not blocks:
            continue
        exempt = [block for block in blocks if block.reason]
        reasons = '; '.join(f'line {block.line}: {block.reason}' for block in exempt)
        lines.append(f'| {page} | {len(blocks) - len(exempt)} | {len(exempt)} | {reasons} |')
        total.update(run=len(blocks) - len(exempt), exempt=len(exempt))
    return '\n'.join([*lines, f'| all | {total["run"]} | {total["exempt"]} | |'])


if __name__ == '__main__':
    print(table())
