"""Imitate the Hugging Face Hub on loopback, and start fresh processes that reach nothing but loopback.

huggingface_hub reads its settings when it is imported, so whatever talks to this Hub runs in a process of its own:

    with FakeHub(tmp_path / 'hub') as hub:  # serves tmp_path / 'hub' / ORG / NAME / FILE
        done = run_python("import timm, gkgnet_timm; ...", home=tmp_path / 'home', endpoint=hub.endpoint)
    assert done.returncode == 0, done.stderr

A process takes seconds to import timm, so let one do many steps. It can also import this module and run the Hub itself.
"""

import atexit
import base64
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple, Union
from urllib.parse import unquote

import yaml

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
CHUNK = 1 << 20
RESOLVE = re.compile(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)')
API = re.compile(r'/api/(?:models/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+)(?:/(revision|preupload|commit)/([^/]+))?')
OURS = re.compile(r'(HF_|HUGGING|TIMM_|GKGNET_|TORCH|PYTHON)|\w+_PROXY$|XDG_CACHE_HOME$', re.IGNORECASE)
BATCH = re.compile(r'/([^/]+/[^/]+)\.git/info/lfs/objects/batch')

# Runs at the start of every child process and of those it starts.
GUARD = """
import errno, socket, sys

def guard(event, args):
    if event in ('socket.getaddrinfo', 'socket.gethostbyname'):
        host = args[0].decode() if isinstance(args[0], bytes) else args[0]
        if host not in (None, '', '127.0.0.1', 'localhost'):
            raise socket.gaierror(socket.EAI_AGAIN, f'no network in tests: {host}')
    elif event in ('socket.connect', 'socket.sendto') and isinstance(args[1], tuple) and args[1][0] != '127.0.0.1':
        raise OSError(errno.ENETUNREACH, f'no network in tests: {args[1]}')

sys.addaudithook(guard)
"""


class HubError(Exception):
    """An answer other than 200: status, X-Error-Code, X-Error-Message."""


class FakeHub:
    """Serve `root/ORG/NAME/FILE` as model repositories and `root/files/NAME` as plain files, read anew at each request.

    Spaces are in `root/spaces/ORG/NAME/`, and called 'spaces/ORG/NAME'. `root/ORG/NAME@REVISION/` is another branch or
    tag; old commits are not kept. Uploads are written to `root` in the same form, large files through Git LFS as the
    Hub has it, not through Xet.

    Attributes:
        endpoint: URL, for HF_ENDPOINT; plain files are at `{endpoint}/files/NAME`.
        requests: 'METHOD /path' of all requests so far.
        token: The one good token; with it, any other is refused, and no upload is possible without. None takes all.
        gated: Repositories ('ORG/NAME') that need access: 401 without a token, 403 with one.
        private: Repositories that do not exist for clients without a token.
        read_only: Repositories and organisations where nobody may write: 403.
        cut: No byte of a file beyond this position is sent, although Content-Length is that of the whole.
        cuts: How many downloads `cut` is for, then it ends; None for all.
        wrong_hash: Send the ETag of other content.
    """

    def __init__(self, root: Union[str, Path]):
        self.root = Path(root)
        self.requests: List[str] = []
        self.token: Optional[str] = None
        self.gated: Set[str] = set()
        self.private: Set[str] = set()
        self.read_only: Set[str] = set()
        self.cut: Optional[int] = None
        self.cuts: Optional[int] = None
        self.wrong_hash = False
        self._hashes: Dict[Path, Tuple[Any, str]] = {}
        handler = type('HubHandler', (_Handler,), dict(hub=self))
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.endpoint = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self) -> 'FakeHub':
        threading.Thread(target=self._server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str, revision: str = 'main') -> str:
        """Commit hash of a branch, that of its content."""
        folder = self.folder(repo, revision)
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())
        content = ''.join(f'{name} {self.sha256(folder / name)}\n' for name in names)
        return hashlib.sha1(f'{repo}\n{content}'.encode()).hexdigest()

    def folder(self, repo: str, revision: str = 'main') -> Path:
        """Folder of a branch, whether it exists or not."""
        return self.root / (repo if revision == 'main' else f'{repo}@{revision}')

    def sha256(self, path: Path) -> str:
        """Hash of a file, computed once as long as it does not change."""
        stat = path.stat()
        state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if self._hashes.get(path, (None,))[0] != state:
            digest = hashlib.sha256()
            with open(path, 'rb') as file:
                while data := file.read(CHUNK):
                    digest.update(data)
            self._hashes[path] = (state, digest.hexdigest())
        return self._hashes[path][1]


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    timeout = 60

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        self.hub.requests.append(f'{self.command} {self.path}')
        path = unquote(self.path.partition('?')[0])
        try:
            if self.command == 'PUT':
                self._put(path)
            elif self.command == 'POST':
                self._post(path, b''.join(self._body()))  # read in any case, or closing would lose the answer
            else:
                self._get(path)
        except HubError as error:
            status, code, message = error.args
            headers = {'X-Error-Code': code, 'X-Error-Message': message}
            self._send_json(status, dict(error=message), {key: value for key, value in headers.items() if value})
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone

    def _send_json(self, status: int, content: Any, headers: Optional[Dict[str, str]] = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {'Content-Type': 'application/json', 'Content-Length': len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get('Transfer-Encoding') == 'chunked':
            while size := int(self.rfile.readline().split(b';')[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get('Content-Length') or 0)
            while left:
                data = self.rfile.read(min(left, CHUNK))
                if not data:
                    raise ConnectionResetError
                left -= len(data)
                yield data

    def _check_token(self, write: bool = False) -> bool:
        given = self.headers.get('Authorization')
        if self.hub.token and given and given != f'Bearer {self.hub.token}':
            raise HubError(401, '', 'Invalid credentials in Authorization header')
        if self.hub.token and write and not given:
            raise HubError(401, '', 'Invalid username or password.')
        return bool(given)

    def _check_repo(self, repo: str, revision: str = 'main') -> str:
        """The branch that a revision is; it and its repository exist for the client."""
        has_token = self._check_token()
        if not self.hub.folder(repo).is_dir() or (repo in self.hub.private and not has_token):
            raise HubError(404 if has_token else 401, 'RepoNotFound', 'Repository not found')
        if repo in self.hub.gated:
            message = f'Access to model {repo} is restricted and you are not in the authorized list.'
            raise HubError(403 if has_token else 401, 'GatedRepo', message)
        if revision == self.hub.commit(repo):
            return 'main'
        if not self.hub.folder(repo, revision).is_dir():
            raise HubError(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        return revision

    def _check_write(self, repo: str) -> None:
        self._check_token(write=True)
        if self.hub.read_only & {repo, repo.split('/')[-2]}:
            raise HubError(403, '', f"You don't have the rights to write to {repo}")

    def _get(self, path: str) -> None:
        if path.startswith('/files/'):
            file = self.hub.root / path[1:]
            if not file.is_file():
                raise HubError(404, '', 'Not found')
            return self._send_file(file, {})
        if match := RESOLVE.fullmatch(path):
            repo, revision, name = match.groups()
            branch = self._check_repo(repo, revision)
            commit = {'X-Repo-Commit': self.hub.commit(repo, branch)}
            file = self.hub.folder(repo, branch) / name
            if not file.is_file():
                return self._send_json(404, dict(error='Entry not found'), {'X-Error-Code': 'EntryNotFound', **commit})
            return self._send_file(file, commit)
        if (match := API.fullmatch(path)) and match[2] in (None, 'revision'):
            repo, branch = match[1], self._check_repo(match[1], match[3] or 'main')
            folder = self.hub.folder(repo, branch)
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob('*') if file.is_file())
            sha = self.hub.commit(repo, branch)
            card = folder / 'README.md'
            header = _header(card.read_text()) if card.is_file() else None
            info = dict(id=repo, modelId=repo, sha=sha, private=repo in self.hub.private, tags=[])
            info.update(cardData=yaml.safe_load(header) if header else None)
            return self._send_json(200, dict(info, siblings=[dict(rfilename=file) for file in files]))
        raise HubError(404, '', 'Not found')  # such as /api/agent-harnesses, which the client can do without

    def _send_file(self, path: Path, headers: Dict[str, str]) -> None:
        size, etag = path.stat().st_size, self.hub.sha256(path)
        start, end = 0, size
        if wanted := re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or ''):
            start, end = int(wanted[1]), min(size, int(wanted[2]) + 1) if wanted[2] else size
            if start >= size:
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{size}')
                return self.end_headers()
            headers = {**headers, 'Content-Range': f'bytes {start}-{end - 1}/{size}'}
        if self.hub.wrong_hash:
            etag = hashlib.sha256(etag.encode()).hexdigest()
        self.send_response(206 if wanted else 200)
        headers = {**headers, 'ETag': f'"{etag}"', 'Content-Length': end - start, 'Accept-Ranges': 'bytes'}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == 'HEAD':
            return
        if self.hub.cut is not None and self.hub.cut < end and self.hub.cuts != 0:
            end = max(start, self.hub.cut)
            if self.hub.cuts is not None:
                self.hub.cuts -= 1
        with open(path, 'rb') as file:
            file.seek(start)
            while start < end:
                data = file.read(min(CHUNK, end - start))
                start += len(data)
                self.wfile.write(data)

    def _put(self, path: str) -> None:
        """An object of Git LFS. Its URL is the permission, as that of the Hub's storage."""
        oid = path.removeprefix('/lfs/')
        target = self._object(oid)
        target.parent.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            for data in self._body():
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != oid:
            os.remove(file.name)
            raise HubError(400, '', f'Content is not that of {oid}')
        os.replace(file.name, target)
        self._send_json(200, {})

    def _object(self, oid: str) -> Path:
        if not re.fullmatch(r'[0-9a-f]{64}', oid):
            raise HubError(400, '', f'Not a sha256: {oid}')
        return self.hub.root / '.lfs' / oid

    def _post(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == '/api/validate-yaml':
            return self._validate_yaml(json.loads(body)['content'])
        if path == '/api/repos/create':
            given = json.loads(body)
            repo = f'{given.get("organization") or "user"}/{given["name"]}'
            if given.get('type') == 'space':
                repo = f'spaces/{repo}'
                if given.get('sdk') not in ('gradio', 'docker', 'static'):
                    raise HubError(400, '', f'Invalid sdk: {given.get("sdk")}')
            self._check_write(repo)
            exists = hub.folder(repo).is_dir()
            hub.folder(repo).mkdir(parents=True, exist_ok=True)
            if not exists and (given.get('private') or given.get('visibility') == 'private'):
                hub.private.add(repo)
            answer = dict(url=f'{hub.endpoint}/{repo}', name=repo)
            return self._send_json(409 if exists else 200, answer)
        if match := BATCH.fullmatch(path):
            self._check_write(match[1])
            self._check_repo(match[1])
            objects = json.loads(body)['objects']
            for item in objects:
                if not self._object(item['oid']).is_file():
                    upload, verify = (f'{hub.endpoint}/lfs/{end}' for end in (item['oid'], 'verify'))
                    item['actions'] = dict(upload=dict(href=upload), verify=dict(href=verify))
            return self._send_json(200, dict(transfer='basic', objects=objects))
        if path == '/lfs/verify':
            item = json.loads(body)
            stored = self._object(item['oid'])
            if not stored.is_file() or stored.stat().st_size != item['size']:
                raise HubError(404, '', f'No such object: {item["oid"]}')
            return self._send_json(200, {})
        if (match := API.fullmatch(path)) and match[2] in ('preupload', 'commit'):
            self._check_write(match[1])
            branch = self._check_repo(match[1], match[3])
            if match[2] == 'preupload':
                files = [self._upload_mode(match[1], branch, file['path']) for file in json.loads(body)['files']]
                return self._send_json(200, dict(files=files))
            self._commit(hub.folder(match[1], branch), [json.loads(line) for line in body.splitlines() if line])
            oid = hub.commit(match[1], branch)
            url = f'{hub.endpoint}/{match[1]}/commit/{oid}'
            return self._send_json(200, dict(success=True, commitOid=oid, commitUrl=url, pullRequestUrl=None))
        raise HubError(404, '', 'Not found')

    def _validate_yaml(self, content: str) -> None:
        header = _header(content)
        try:
            if header and not isinstance(yaml.safe_load(header), dict):
                raise yaml.YAMLError('Metadata is not a mapping.')
        except yaml.YAMLError as error:
            return self._send_json(400, dict(errors=[dict(message=str(error))], warnings=[]))
        warnings = [] if header else [dict(message='empty or missing yaml metadata in repo card')]
        self._send_json(200, dict(errors=[], warnings=warnings))

    def _upload_mode(self, repo: str, branch: str, name: str) -> Dict[str, Any]:
        """How to send a file, and its hash where there is one, which saves sending it again."""
        path = self.hub.folder(repo, branch) / name
        mode = 'lfs' if path.suffix in ('.safetensors', '.bin', '.pt', '.pth') else 'regular'
        answer = dict(path=name, uploadMode=mode, shouldIgnore=False)
        if path.is_file() and mode == 'lfs':
            answer['oid'] = self.hub.sha256(path)
        elif path.is_file():
            data = path.read_bytes()
            answer['oid'] = hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()  # as Git has it
        return answer

    def _commit(self, folder: Path, lines: List[Dict[str, Any]]) -> None:
        changes: List[Tuple[str, Path, Any]] = []
        for line in lines:  # check all of them before doing any
            key, value = line['key'], line['value']
            if key == 'header':
                continue
            target = folder / value['path']
            if not target.resolve().is_relative_to(folder.resolve()):
                raise HubError(400, '', f'Path is outside of the repository: {value["path"]}')
            content = base64.b64decode(value['content']) if key == 'file' else None
            if key == 'lfsFile':
                content = self._object(value['oid'])
                if not content.is_file():
                    raise HubError(400, '', f'LFS object was not uploaded: {value["oid"]}')
            changes.append((key, target, content))
        for key, target, content in changes:
            target.parent.mkdir(parents=True, exist_ok=True)
            if key == 'file':
                target.write_bytes(content)
            elif key == 'lfsFile':
                shutil.copyfile(content, target)
            elif key == 'deletedFile':
                target.unlink()
            elif key == 'deletedFolder':
                shutil.rmtree(target)
            else:
                raise HubError(400, '', f'Unknown operation {key}')


def _header(content: str) -> Optional[str]:
    """The YAML at the start of a README.md."""
    header = re.match(r'---\r?\n(.*?)\r?\n---(\r?\n|$)', content, re.DOTALL)
    return header[1] if header else None


def run_python(
    code: Union[str, Path],
    *args: Any,
    home: Union[str, Path],
    endpoint: Optional[str] = None,
    timeout: float = 300,
    cwd: Union[str, Path, None] = None,
    **env: Any,
) -> 'subprocess.CompletedProcess[str]':
    """Run a script in a fresh process without settings, caches or tokens of the user; it reaches only 127.0.0.1.

    The caches of huggingface_hub, torch.hub and this package are in `home`, so that the same `home` finds them again.
    Xet is off: its sockets are not those of Python, which are what the guard sees.

    Args:
        code: Path of a script, or code.
        args: Its arguments.
        home: Folder of all caches, made where it does not exist.
        endpoint: Of a `FakeHub`. Without one, the client looks for the real Hub and does not reach it, for which it
            takes half a minute where it has nothing cached; HF_HUB_OFFLINE=1 is quick.
        timeout: Seconds until a TimeoutError.
        cwd: Working directory, `home` unless given.
        env: More environment variables, None to have none of that name.
    """
    home = Path(home).absolute()
    guard = home / 'guard'
    guard.mkdir(parents=True, exist_ok=True)
    (guard / 'sitecustomize.py').write_text(GUARD)
    if isinstance(code, str):
        with tempfile.NamedTemporaryFile('w', dir=home, prefix='script_', suffix='.py', delete=False) as file:
            file.write(textwrap.dedent(code))
        code = Path(file.name)
    variables = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    variables.update(
        HF_HOME=str(home / 'huggingface'),
        TORCH_HOME=str(home / 'torch'),
        GKGNET_TIMM_CACHE=str(home / 'gkgnet_timm'),
        HF_HUB_DISABLE_TELEMETRY='1',
        HF_HUB_DISABLE_XET='1',
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join(map(str, (guard, ROOT, SUPPORT))),
    )
    if endpoint:
        variables['HF_ENDPOINT'] = endpoint
    for name, value in env.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = str(value)
    command = [str(Path(code).absolute()), *map(str, args)]
    streams = [f'{code}.stdout', f'{code}.stderr']
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile('rw') as stream:
        connection.settimeout(timeout)
        connection.connect(_warm_process())
        stream.write(json.dumps([command, str(cwd or home), variables, GUARD, *streams]) + '\n')
        stream.flush()
        status = int(stream.readline())
    return subprocess.CompletedProcess(command, status, *(Path(path).read_text() for path in streams))


@functools.lru_cache(maxsize=None)
def _warm_process() -> str:
    """Start `warm.py`, for as long as this process lives, and return its socket."""
    folder = tempfile.TemporaryDirectory()  # the system limits the length of the path of a socket
    path = os.path.join(folder.name, 'socket')
    variables = {name: value for name, value in os.environ.items() if not OURS.match(name)} | {'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / 'warm.py'), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
        text=True,
    )
    atexit.register(folder.cleanup)
    atexit.register(process.stdin.close)
    assert process.stdout.readline() == 'ready\n'
    return path
