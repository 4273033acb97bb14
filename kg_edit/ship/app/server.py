"""The web application behind `kg-edit serve`: the page, and its JSON API.

It contacts no other machine. `guard.py` decides which requests are refused. Errors are answered by a `Problem` in JSON;
under ``/v1/`` in OpenAI's form.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from kg_edit.edits.edit import Edit, Record, parse_record
from kg_edit.errors import ConfigError, DamagedLedgerError, EditError, KgEditError, OutputError, UnknownNameError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.ship.app.guard import LARGEST, LOCAL, BodyLimit, Refusal, refusal_of
from kg_edit.ship.app.messages import (
    AddRequest,
    LedgerView,
    Problem,
    PromptToTry,
    RemoveRequest,
    State,
    TryAnswer,
    TryRequest,
    UndoRequest,
    problem_of,
)
from kg_edit.ship.app.models_api import LOAD, UNLOAD, LoadRequest, UnloadRequest, add_models_api
from kg_edit.ship.app.openai_api import CHAT, COMPLETIONS, ChatRequest, CompletionRequest, add_openai_api, openai_error
from kg_edit.ship.app.session import EditDesk
from kg_edit.version import __version__
from wikidata_cache.errors import WikidataCacheError

log = logging.getLogger(__name__)

_Next = Callable[[Request], Awaitable[Response]]
_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/script.js": ("script.js", "text/javascript"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
# The fields of each POST's body, by which `_answer_wrong_fields` words the faults
_REQUESTS: dict[str, type[Record]] = {
    "/api/try": TryRequest,
    "/api/ledger": AddRequest,
    "/api/ledger/remove": RemoveRequest,
    "/api/ledger/undo": UndoRequest,
    COMPLETIONS: CompletionRequest,
    CHAT: ChatRequest,
    LOAD: LoadRequest,
    UNLOAD: UnloadRequest,
}
_FAILED = 500
_UNKNOWN = 404
_WRONG = 422
_WRONG_FOR_OPENAI = 400


def make_app(desk: EditDesk, *, hosts: tuple[str, ...] = LOCAL, largest: int = LARGEST) -> FastAPI:
    """Return the application.

    Args:
        desk: the model, the method and the ledger.
        hosts: the names to which it answers, so that another site's name can't lead here (`kg_edit.ship.app.guard`).
        largest: the largest size of a request's body in bytes.
    """
    app = FastAPI(title="kg-edit", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")

    @app.middleware("http")
    async def guard(request: Request, call: _Next) -> Response:
        """Refuse what another site's page may have sent, or let the request be answered. Add the headers."""
        refusal = refusal_of(request, hosts)
        answer: Response
        if refusal:
            answer = _refuse(request.url.path, refusal)
        else:
            answer = await call(request)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    app.add_middleware(BodyLimit, largest=largest, answer=_refuse)
    _add_problems(app)

    _add_page(app)
    _add_tries(app, desk)
    _add_ledger(app, desk)
    add_openai_api(app, desk)
    add_models_api(app, desk.models)
    return app


def _add_page(app: FastAPI) -> None:
    """Serve the files of the page; each is read once, now."""

    def add_file(path: str, name: str, kind: str) -> None:
        text = (files("kg_edit.ship.app") / "page" / name).read_text(encoding="utf-8")

        @app.get(path, include_in_schema=False)
        def send_file() -> Response:
            return Response(text, media_type=kind, headers={"Content-Security-Policy": _POLICY})

    for path, (name, kind) in _FILES.items():
        add_file(path, name, kind)


def _add_tries(app: FastAPI, desk: EditDesk) -> None:
    @app.get("/api/state")
    def state() -> State:
        """Return the server's model, method, graph and ledger."""
        return state_of(desk)

    @app.post("/api/try")
    def try_edit(request: TryRequest) -> TryAnswer:
        """Make an edit and return its effect; afterwards the model is unedited."""
        return desk.try_edit(request)

    @app.get("/api/tries/{key}/subgraph", response_class=HTMLResponse)
    def subgraph(key: str) -> HTMLResponse:
        """Return the drawing of a try's subgraph: a page of its own, which loads nothing."""
        return HTMLResponse(desk.subgraph_page(key))


def _add_ledger(app: FastAPI, desk: EditDesk) -> None:
    @app.get("/api/ledger")
    def ledger() -> LedgerView:
        """Return the ledger's edits, and which of them are in conflict."""
        return desk.ledger_view()

    @app.post("/api/ledger")
    def add(request: AddRequest) -> LedgerView:
        """Add a tried edit's patch to the ledger."""
        return desk.add(request.id, force=request.force)

    @app.post("/api/ledger/remove")
    def remove(request: RemoveRequest) -> LedgerView:
        """Remove an edit from the ledger; edits that were computed on a model with it are computed again."""
        return desk.remove(request.name)

    @app.post("/api/ledger/undo")
    def undo(request: UndoRequest) -> LedgerView:
        """Undo the ledger's last addition or removal."""
        return desk.undo(request.event)


def state_of(desk: EditDesk) -> State:
    """Return the state that the page shows: model, method, graph, ledger and an example."""
    method = desk.method
    model = desk.model
    ledger = desk.ledger
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    dtype = str(model.model.dtype).removeprefix("torch.")
    folder = None
    active = 0
    if ledger:
        folder = str(ledger.folder)
        active = len(ledger.active)
    return State(
        model=model.name,
        size=f"{parameters / 1e6:,.0f} M parameters, {dtype}, {model.device}",
        method=method.name,
        about=method.entry.about,
        settings=method.config.model_dump(mode="json"),
        graph=_name_of(desk.graph),
        ledger=folder,
        active=active,
        chat=bool(model.tokenizer.chat_template),
        example=example(),
    )


def _name_of(graph: SubgraphSource | None) -> str | None:
    """Return the names of a graph's files, its folder or its address; if it has none, its kind."""
    if graph is None:
        return None
    source = getattr(graph, "source", graph)  # what a Wikidata cache reads from; other graphs are their own source
    name = getattr(source, "name", None)
    if name:
        return str(name)
    kind = None
    if hasattr(source, "provenance"):
        kind = source.provenance().get("kind")
    return str(kind or type(source).__name__)


def example() -> TryRequest:
    """Return the first edit of `kg-edit demo`, with its paraphrases and a locality prompt as probes."""
    lines = (files("kg_edit") / "data" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    edit = parse_record(Edit, json.loads(lines[0]))
    probes = [PromptToTry(prompt=prompt) for prompt in edit.paraphrases]
    for prompt in edit.neighborhood[:1]:
        probes.append(PromptToTry(prompt=prompt, answer=edit.target_true))
    return TryRequest(
        subject=edit.subject,
        prompt=edit.prompt,
        target_new=edit.target_new,
        target_true=edit.target_true,
        relation=edit.relation,
        subject_id=edit.subject_id,
        target_new_id=edit.target_new_id,
        probes=tuple(probes),
    )


def _add_problems(app: FastAPI) -> None:
    """Answer every error by a `Problem`."""
    app.exception_handler(KgEditError)(_answer_known_error)
    app.exception_handler(WikidataCacheError)(_answer_known_error)
    app.exception_handler(RequestValidationError)(_answer_wrong_fields)
    app.exception_handler(HTTPException)(_answer_unknown_route)
    app.exception_handler(Exception)(_answer_internal_error)


def _answer_known_error(request: Request, error: Exception) -> JSONResponse:
    code = _UNKNOWN if isinstance(error, UnknownNameError) else _WRONG
    if isinstance(error, DamagedLedgerError | OutputError):  # other requests would fail too
        log.error("%s failed: %s", request.url.path, error)
        code = _FAILED
    return _answer(request.url.path, code, problem_of(error))


def _answer_wrong_fields(request: Request, error: RequestValidationError) -> JSONResponse:
    """Name the faults of a request field by field, with the messages of `parse_record` in the place of pydantic's."""
    kind = _REQUESTS.get(request.url.path)
    if kind and isinstance(error.body, dict):
        try:
            parse_record(kind, error.body)  # pydantic refused these fields, so this refuses them too, in our words
        except EditError as found:
            return _answer_known_error(request, found)
    message = "the request can't be read; send a JSON object with the content type application/json"
    return _answer_known_error(request, ConfigError(message))


def _answer_unknown_route(request: Request, error: HTTPException) -> JSONResponse:
    message = f"{request.method} {request.url.path}: {error.detail}; GET /api/openapi.json lists all requests"
    answer = _answer(request.url.path, error.status_code, Problem(kind="RequestError", message=message))
    answer.headers.update(error.headers or {})
    return answer


def _answer_internal_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s failed", request.url.path, exc_info=error)
    message = f"internal error: {error}; see the terminal of kg-edit serve for details"
    refusal = Refusal(_FAILED, type(error).__name__, message)
    return _refuse(request.url.path, refusal)  # starlette sends this answer past `guard` too


def _refuse(path: str, refusal: Refusal) -> JSONResponse:
    """Return a refusal with all headers, because not every one passes through `guard`: `BodyLimit` is outside of it."""
    answer = _answer(path, refusal.code, Problem(kind=refusal.kind, message=refusal.message))
    answer.headers.update(_HEADERS)
    return answer


def _answer(path: str, code: int, problem: Problem) -> JSONResponse:
    """Return a problem as JSON, and as OpenAI's clients read it if the request was one of OpenAI's API."""
    if path.startswith("/v1/"):
        code = _WRONG_FOR_OPENAI if code == _WRONG else code
        return JSONResponse(openai_error(code, problem), status_code=code)
    return JSONResponse(problem.model_dump(mode="json"), status_code=code)
