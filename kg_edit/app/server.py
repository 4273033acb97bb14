"""The web application behind `kg-edit serve`: the page, and its JSON API.

It contacts no other machine. `guard.py` decides which requests are refused. Errors are answered by a `Problem` in JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from kg_edit.app.completions import COMPLETIONS, CompletionRequest, add_completions
from kg_edit.app.guard import LARGEST, LOCAL, BodyLimit, Refusal, refusal_of
from kg_edit.app.messages import (
    ChatAnswer,
    ChatRequest,
    KeepRequest,
    LedgerView,
    Problem,
    PromptToTry,
    State,
    TryAnswer,
    TryRequest,
)
from kg_edit.app.session import EditDesk
from kg_edit.edits.edit import Edit, Record, checked
from kg_edit.errors import ConfigError, EditError, KgEditError, UnknownNameError
from kg_edit.version import __version__
from wikidata_cache.errors import WikidataCacheError

if TYPE_CHECKING:
    from kg_edit.app.session import EditDesk


def state_of(desk: EditDesk) -> State:
    """The state that the page shows: model, method, graph, ledger and an example."""
    method, model, ledger = desk.method, desk.model, desk.ledger
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    return State(
        model=model.name,
        size=f"{parameters / 1e6:,.0f} M parameters, {str(model.model.dtype).removeprefix('torch.')}, {model.device}",
        method=method.name,
        about=method.about,
        settings=method.config.model_dump(mode="json"),
        graph=_graph_name(desk),
        ledger=str(ledger.folder) if ledger else None,
        active=len(ledger.active) if ledger else 0,
        chat=bool(model.tokenizer.chat_template),
        example=example(),
    )


def example() -> TryRequest:
    """The first edit of `kg-edit demo`, with its paraphrases and neighbours as probes."""
    lines = (files("kg_edit") / "data" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    edit = checked(Edit, json.loads(lines[0]))
    probes = [PromptToTry(prompt=prompt) for prompt in edit.paraphrases]
    return TryRequest(
        subject=edit.subject,
        prompt=edit.prompt,
        target_new=edit.target_new,
        target_true=edit.target_true,
        relation=edit.relation,
        subject_id=edit.subject_id,
        target_new_id=edit.target_new_id,
        probes=(*probes, *(PromptToTry(prompt=prompt, answer=edit.target_true) for prompt in edit.neighborhood[:1])),
    )


def _graph_name(desk: EditDesk) -> str | None:
    """The graph's name for the page: its files, its address or its kind."""
    if desk.graph is None:
        return None
    source = getattr(desk.graph, "source", desk.graph)
    said = source.provenance() if hasattr(source, "provenance") else {}
    named = ", ".join(str(file.get("name")) for file in said.get("files", ()))
    return named or str(said.get("url") or said.get("kind") or type(source).__name__)


log = logging.getLogger(__name__)

_Next = Callable[[Request], Awaitable[Response]]
_FILES = {"": "text/html", "style.css": "text/css", "script.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_REQUESTS: dict[str, type[Record]] = {
    "/api/try": TryRequest,
    "/api/ledger": KeepRequest,
    COMPLETIONS: CompletionRequest,
    "/v1/chat/completions": ChatRequest,
}
_FAILED, _UNKNOWN, _WRONG = 500, 404, 422


def make_app(desk: EditDesk, *, hosts: tuple[str, ...] = LOCAL, largest: int = LARGEST) -> FastAPI:
    """Make the application.

    ``hosts`` are the names to which it answers, so that another site's name can't lead here (`kg_edit.app.guard`);
    ``largest`` is the largest size of a request's body in bytes.
    """
    app = FastAPI(title="kg-edit", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.middleware("http")(_guard(hosts))
    app.add_middleware(BodyLimit, largest=largest, answer=_refused)
    _add_problems(app)
    _add_page(app)
    _add_api(app, desk)
    add_completions(app, desk)
    return app


def _add_page(app: FastAPI) -> None:
    def serve(name: str, kind: str) -> Callable[[], Response]:
        text = (files("kg_edit.app") / "page" / (name or "index.html")).read_text(encoding="utf-8")
        return lambda: Response(text, media_type=kind, headers={"Content-Security-Policy": _POLICY})

    for name, kind in _FILES.items():
        app.get(f"/{name}", include_in_schema=False)(serve(name, kind))


def _add_api(app: FastAPI, desk: EditDesk) -> None:
    @app.get("/api/state")
    def state() -> State:
        """The model, the method, the graph and the ledger that the server runs with."""
        return state_of(desk)

    @app.post("/api/try")
    def try_edit(wanted: TryRequest) -> TryAnswer:
        """Make an edit and look at it; the model is as before afterwards."""
        return desk.try_edit(wanted)

    @app.get("/api/ledger")
    def ledger() -> LedgerView:
        """The ledger's edits, and which of them are in conflict."""
        return desk.ledger_view()

    @app.post("/api/ledger")
    def keep(wanted: KeepRequest) -> LedgerView:
        """Put a tried edit's patch into the ledger."""
        return desk.keep(wanted.id, force=wanted.force)

    @app.post("/v1/chat/completions")
    def chat(wanted: ChatRequest) -> ChatAnswer:
        """Answer a conversation, put into the model's chat template, with all that stands in the ledger."""
        return desk.chat(wanted)

    @app.get("/api/tries/{name}/subgraph", response_class=HTMLResponse)
    def subgraph(name: str) -> HTMLResponse:
        """The drawing of a try's subgraph: a page of its own, which asks for nothing."""
        return HTMLResponse(desk.subgraph_page(name))


def _guard(hosts: tuple[str, ...]) -> Callable[[Request, _Next], Awaitable[Response]]:
    async def guarded(request: Request, call: _Next) -> Response:
        """Refuse what another site's page may have sent; else answer. Every answer has the headers."""
        refusal = refusal_of(request, hosts)
        answer = _refused(refusal) if refusal else await call(request)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    return guarded


def _refused(refusal: Refusal) -> JSONResponse:
    answer = _problem(*refusal, (), {})
    answer.headers.update(_HEADERS)
    return answer


def _add_problems(app: FastAPI) -> None:
    """Answer every error by a `Problem`."""

    @app.exception_handler(KgEditError)
    @app.exception_handler(WikidataCacheError)
    def refused(_: Request, error: Exception) -> JSONResponse:
        fields = {fault.field: fault.message for fault in getattr(error, "faults", ()) if fault.field}
        code = _UNKNOWN if isinstance(error, UnknownNameError) else _WRONG
        return _problem(code, type(error).__name__, str(error), getattr(error, "__notes__", ()), fields)

    @app.exception_handler(RequestValidationError)
    def misread(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(request, _in_plain_words(request.url.path, error))

    @app.exception_handler(HTTPException)
    def not_served(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}; GET /api/openapi.json lists all requests"
        answer = _problem(error.status_code, "RequestError", message, (), {})
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s failed", request.url.path, exc_info=error)
        message = f"internal error: {error}; see the terminal of kg-edit serve for details"
        return _refused(Refusal(_FAILED, type(error).__name__, message))  # starlette answers outside of `_guard`


def _in_plain_words(path: str, error: RequestValidationError) -> KgEditError:
    """The faults of a request, field by field."""
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
