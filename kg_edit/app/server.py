"""The page and its JSON API. Nothing is asked of any other machine, nor done for its pages; problems are JSON, too."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from kg_edit import __version__
from kg_edit.app.messages import KeepRequest, LedgerView, Problem, State, TryAnswer, TryRequest
from kg_edit.app.origin import refusal_of
from kg_edit.app.session import Workshop
from kg_edit.app.state import state_of
from kg_edit.edits.edit import Record, checked
from kg_edit.errors import ConfigError, EditError, KgEditError, UnknownNameError
from wikidata_cache.errors import WikidataCacheError

log = logging.getLogger(__name__)

_FILES = {"": "text/html", "style.css": "text/css", "script.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_REQUESTS: dict[str, type[Record]] = {"/api/try": TryRequest, "/api/ledger": KeepRequest}
_FAILED, _UNKNOWN, _WRONG = 500, 404, 422


def make_app(workshop: Workshop, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> FastAPI:
    """The application; ``hosts`` are the names under which it answers, so that no other site's name leads here."""
    app = FastAPI(title="kg-edit", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.middleware("http")(_guarded)
    _add_problems(app)
    _add_page(app)
    _add_api(app, workshop)
    return app


def _add_page(app: FastAPI) -> None:
    def serve(name: str, kind: str) -> Callable[[], Response]:
        text = (files("kg_edit.app") / "page" / (name or "index.html")).read_text(encoding="utf-8")
        return lambda: Response(text, media_type=kind, headers={"Content-Security-Policy": _POLICY})

    for name, kind in _FILES.items():
        app.get(f"/{name}", include_in_schema=False)(serve(name, kind))


def _add_api(app: FastAPI, workshop: Workshop) -> None:
    @app.get("/api/state")
    def state() -> State:
        """What the page works with."""
        return state_of(workshop)

    @app.post("/api/try")
    def try_edit(wanted: TryRequest) -> TryAnswer:
        """Make an edit and look at it; the model is as before afterwards."""
        return workshop.try_edit(wanted)

    @app.get("/api/ledger")
    def ledger() -> LedgerView:
        """What the ledger holds."""
        return workshop.ledger_view()

    @app.post("/api/ledger")
    def keep(wanted: KeepRequest) -> LedgerView:
        """Keep an edit that was tried."""
        return workshop.keep(wanted.id, force=wanted.force)

    @app.get("/api/tries/{name}/subgraph", response_class=HTMLResponse)
    def subgraph(name: str) -> HTMLResponse:
        """The drawing of a try's subgraph: a page of its own, which asks for nothing."""
        return HTMLResponse(workshop.subgraph_page(name))


async def _guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what another site's page may have sent; else answer. Every answer has the headers."""
    refusal = refusal_of(request)
    answer = _problem(*refusal, (), {}) if refusal else await call(request)
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer


def _add_problems(app: FastAPI) -> None:
    """Whatever goes wrong is answered by a `Problem`."""

    @app.exception_handler(KgEditError)
    @app.exception_handler(WikidataCacheError)
    def refused(_: Request, error: Exception) -> JSONResponse:
        fields = {fault.field: fault.message for fault in getattr(error, "faults", ()) if fault.field}
        code = _UNKNOWN if isinstance(error, UnknownNameError) else _WRONG
        return _problem(code, type(error).__name__, str(error), getattr(error, "__notes__", ()), fields)

    @app.exception_handler(RequestValidationError)
    def misread(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(request, _in_plain_words(request.url.path, error))

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s failed", request.url.path, exc_info=error)
        message = f"this should not have happened: {error}; the terminal of kg-edit serve has the details"
        return _problem(_FAILED, type(error).__name__, message, (), {})


def _in_plain_words(path: str, error: RequestValidationError) -> KgEditError:
    """What is wrong with a request, field by field."""
    if isinstance(error.body, dict) and path in _REQUESTS:
        try:
            checked(_REQUESTS[path], error.body)
        except EditError as found:
            return found
    return ConfigError("the request can't be read; send a JSON object with the content type application/json")


def _problem(
    code: int, kind: str, message: str, notes: tuple[str, ...] | list[str], fields: dict[str, str]
) -> JSONResponse:
    said = Problem(kind=kind, message=message, notes=tuple(notes), fields=fields)
    return JSONResponse(said.model_dump(mode="json"), status_code=code)
