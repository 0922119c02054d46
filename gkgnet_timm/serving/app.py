"""The server as a FastAPI application: scores and explanations of uploads, and the page that shows them."""

import asyncio
import html
import re
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Annotated, Any, AsyncIterator, Dict, List, Optional, Tuple

from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response

from ..data import BadImageError
from ..runtime import one_line
from ..version import __version__
from .explainer import Explainer
from .scorer import Scorer
from .uploads import BUSY, RETRY, UploadLimit
from .worker import Busy, Worker

__all__ = ['create_app']

MOST_FILES = 64  # of a request
KINDS = dict(html='text/html', js='text/javascript', css='text/css', svg='image/svg+xml')
# no page of ours asks another host for anything, nor does what somebody might get into it
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {'content-security-policy': POLICY, 'x-content-type-options': 'nosniff', 'cache-control': 'no-cache'}
REFUSALS = {
    400: 'No image, or too many of them.',
    413: 'The upload is too large.',
    422: 'No image of the request can be read.',
    503: 'Too many images are waiting. Retry-After says when to try again.',
}


_RESPONSES = {status: dict(description=text) for status, text in REFUSALS.items()}


def _page_file(page: Dict[str, bytes], file: str) -> Response:
    if file not in page:
        raise HTTPException(404, 'There is no such page.')
    return Response(page[file], headers=HEADERS, media_type=KINDS[file.rpartition('.')[2]])


def _endpoints(app: FastAPI, url: str) -> str:
    """What the application answers, as HTML, with a command for each."""
    parts = []
    for path, methods in app.openapi()['paths'].items():
        for method, found in methods.items():
            title, text = f'{method.upper()} {path}', found['description']
            curl = 'curl ' + found['x-curl'].format(url=url)
            parts.append(f'<h2>{title}</h2><p>{html.escape(text)}</p><pre><code>{html.escape(curl)}</code></pre>')
    return ''.join(parts)


def _row(scorer: Scorer, file: str, result: Any) -> Dict[str, Any]:
    """The entry of a file: `result` is its scores, or what was raised."""
    if isinstance(result, BadImageError):
        return dict(file=file, error=str(result))
    if isinstance(result, BaseException):
        raise result
    return dict(file=file, **scorer.row(result))


def _place(patch: str) -> Optional[Tuple[int, int]]:
    if not patch:
        return None
    if not re.fullmatch('[0-9]{1,4},[0-9]{1,4}', patch):
        raise HTTPException(422, f'patch is {patch[:80]!r}, expected row,column such as 3,5.')
    row, column = map(int, patch.split(','))
    return row, column


def _detail(status: int, sentence: str, headers: Optional[Dict[str, str]] = None) -> Response:
    return JSONResponse(dict(detail=sentence), status, headers)


def _malformed(request: Request, error: RequestValidationError) -> Response:
    field = error.errors()[0]['loc'][1:2]
    return _detail(422, f'{field[0] if field else "body"}: missing, or not as /docs has it.')


_HANDLERS = {
    Busy: lambda request, error: _detail(503, BUSY, RETRY),
    BadImageError: lambda request, error: _detail(422, f'The image cannot be read: {error}'),
    RequestValidationError: _malformed,
    Exception: lambda request, error: _detail(500, f'The model failed: {one_line(error)}'),  # uvicorn logs it
}


def create_app(
    scorer: Scorer,
    *,
    name: str = '',
    explainer: Optional[Explainer] = None,
    max_upload: int = 32_000_000,
    queue: int = 64,
    batch_size: int = 16,
) -> FastAPI:
    """Create the application.

    Args:
        scorer: Reads and scores images.
        name: Of the model.
        explainer: Explains images, None for a model without a label graph.
        max_upload: Largest request in bytes.
        queue: Images that may wait for the model.
        batch_size: Largest number of images that run together.
    """
    worker = Worker(scorer.score, batch_size, queue)
    most_files = min(MOST_FILES, max(1, queue // 2))  # so that one finds room while others wait
    page = {file.name: file.read_bytes() for file in resources.files(__package__).joinpath('page').iterdir()}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()

    app = FastAPI(title='gkgnet_timm', version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.worker = worker
    app.add_middleware(UploadLimit, limit=max_upload, is_busy=lambda: worker.is_full)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)

    @app.get('/', include_in_schema=False)
    def show_page() -> Response:
        return _page_file(page, 'index.html')

    @app.get('/page/{file}', include_in_schema=False)
    def show_part(file: str) -> Response:
        return _page_file(page, file)

    @app.get('/docs', include_in_schema=False)
    def list_endpoints(request: Request) -> Response:
        text = _endpoints(app, str(request.base_url).rstrip('/'))
        return HTMLResponse(page['docs.html'].decode().replace('<!-- endpoints -->', text), headers=HEADERS)

    @app.get('/model', openapi_extra={'x-curl': '{url}/model'})
    def describe_model() -> Dict[str, Any]:
        """Name, classes, thresholds, licence and preprocessing of the model, and the limits of this server."""
        limits = dict(upload_bytes=max_upload, pixels=scorer.max_pixels, files=most_files)
        abilities = dict(label_graph=explainer is not None, patch_neighbors=bool(explainer and explainer.is_vig))
        return dict(name=name, version=__version__, **scorer.describe(), **abilities, limits=limits)

    curl = '-F files=@a.jpg -F files=@b.jpg {url}/predict'

    @app.post('/predict', responses=_RESPONSES, openapi_extra={'x-curl': curl})
    async def predict(
        files: Annotated[List[UploadFile], File(description='images')],
        lenient: Annotated[bool, Query(description='status 200 even if no image can be read')] = False,
    ) -> Response:
        """Labels above the threshold, best first, and the scores of all classes, of each image in the order of the
        request. An image that cannot be read has "error" in place of both; if none can be read, the status is 422.
        """
        if len(files) > most_files:
            raise HTTPException(400, f'{len(files)} files, this server takes up to {most_files} at a time.')
        futures = worker.submit([partial(scorer.read, upload.file) for upload in files])
        results = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        rows = [_row(scorer, upload.filename or '', result) for upload, result in zip(files, results)]
        is_refused = all('error' in row for row in rows) and not lenient
        return JSONResponse(rows, 422 if is_refused else 200)

    @app.post('/explain', responses=_RESPONSES, openapi_extra={'x-curl': '-F file=@a.jpg -F labels=NAME {url}/explain'})
    async def explain(
        file: Annotated[UploadFile, File(description='an image')],
        labels: Annotated[
            List[str], Form(description='classes (default: those at their threshold, or else the best)')
        ] = [],  # noqa: B006
        patch: Annotated[str, Form(description='row,column in the first map: its neighbours in the trunk')] = '',
    ) -> Response:
        """The patches that each label chose, by stage, channel group and rank, with boxes in pixels of the image. With
        patch: the neighbours of this patch in place of them. 404 for a model without a label graph.
        """
        if explainer is None:
            raise HTTPException(404, 'This model has no label graph: there are no patches to show.')
        place = _place(patch)
        work = partial(explainer.explain, labels, place)
        (future,) = worker.submit([partial(explainer.read, file.file)], work)
        try:
            return Response(await asyncio.wrap_future(future), media_type='application/json')
        except ValueError as error:  # no such label or patch
            raise HTTPException(422, one_line(error)) from error

    return app
