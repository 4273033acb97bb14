"""`kg-edit serve`: a page on this machine to try edits."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_common.terminal import number_of
from kg_edit.cli.lazy_graph import LazyGraph
from kg_edit.cli.method_plan import choose_method, doing, load_model, note_choice, plan_method
from kg_edit.cli.options import (
    ChosenMethod,
    Contact,
    CorpusName,
    Device,
    Dtype,
    EditPreset,
    Graph,
    Layer,
    ModelName,
    RequireGraph,
    Settings,
    Start,
)
from kg_edit.errors import ConfigError
from kg_edit.methods.registry import check_method
from kg_edit.models.loading import check_model_name

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kg_edit.ship.ledger import Ledger

log = logging.getLogger(__name__)

_SERVER = "Server"  # panel of the help
_HERE = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with
_END_S = 3  # for connections that are open when the server ends


def serve(
    graph: Graph = None,
    model: ModelName = "smollm2-135m",
    method: ChosenMethod = None,
    layer: Layer = None,
    preset: EditPreset = None,
    settings: Settings = None,
    corpus: CorpusName = None,
    require_graph: RequireGraph = False,
    ledger: Annotated[
        Path | None, typer.Option(metavar="LEDGER", help="Folder of the patch ledger to show and add to.")
    ] = None,
    patches: Annotated[
        list[str] | None,
        typer.Option("--patch", metavar="NAME=PATH", help="Also serve this patch, as the model NAME. Repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default serves this machine only.", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.", rich_help_panel=_SERVER)
    ] = 8000,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="HOST",
            help="Additional host name to answer to, such as that of a proxy. Repeatable.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    max_body: Annotated[
        float,
        typer.Option(min=0.001, max=1000, metavar="MB", help="Maximum size of a request.", rich_help_panel=_SERVER),
    ] = 1.0,
    start: Start = "auto",
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Serve a web page to try edits, with the answers of the unedited and the edited model.

    The page also shows the ledger and the subgraph. Each try leaves the model unchanged. The API at `/v1` answers as
    several models, which a request chooses by its `model`: with the ledger's edits, `unedited`, `LEDGER@3` (as it was
    after its third event), and each `--patch`; `kg-edit patch push` and `pull` load and unload patches while it runs.
    Needs the extra `app`: `pip install 'kg-edit[app]'`.

    Examples:

    - `kg-edit serve --model smollm2-135m --method rome --ledger ledger/ --port 8000`
    """
    _check_extra()
    from kg_edit.ship.ledger.log import open_store

    # Everything that can be wrong without a model is checked first
    method_option = method
    method = choose_method(method, graph)
    check_method(method)
    check_model_name(model)
    if ledger:
        open_store(ledger).refuse_misspelled()
    named_patches = _parse_patches(patches or ())
    opened_graph = LazyGraph(method, graph, contact).open()
    method_plan = plan_method(
        method,
        preset=preset,
        layer=layer,
        settings=settings,
        corpus=corpus,
        graph=opened_graph,
        require_graph=require_graph,
    )
    method_plan.method.check_inputs(method_plan.config, method_plan.graph, [])  # settings and graph; edits come later
    opened = _open_ledger(ledger) if ledger else None
    with listening(host, port) as listener:  # a port that is taken is an error before the model is loaded
        from kg_edit.ship.app.server import make_app
        from kg_edit.ship.app.session import EditDesk

        hosts = host_names(host, names or ())
        note_choice(method_option, graph)
        editor = method_plan.on(load_model(model, dtype, device))
        with doing(f"preparing {method}"):
            editor.prepare()
        desk = EditDesk(editor, graph=method_plan.graph, ledger=opened, start=start)
        for name, path in named_patches.items():
            desk.models.load(name, path)
        app = make_app(desk, hosts=hosts, largest=int(max_body * 1_000_000))
        typer.echo(f"{_write_address(host, listener)} is up; stop it with Ctrl-C")
        run(app, listener)
    typer.echo("stopped")
    if desk.is_busy:  # with a request that was cut off: Python would wait for the end of its edit
        os._exit(0)


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"kg-edit serve needs the extra app ({error}): pip install 'kg-edit[app]'") from error


def _parse_patches(texts: Sequence[str]) -> dict[str, str]:
    """Return the path of each ``--patch``, by its name."""
    from kg_edit.ship.ledger.listing import check_patches
    from kg_edit.ship.live.push import check_name

    paths = dict[str, str]()
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--patch {text}: expected NAME=PATH, such as --patch lakers=out/patch.safetensors")
        if name in paths:
            raise ConfigError(f"--patch {text}: {name} is given twice; give each patch a name of its own")
        check_name(name)
        check_patches([Path(path)])
        paths[name] = path
    return paths


def _open_ledger(folder: Path) -> Ledger:
    """Open a ledger, and log how many edits it has."""
    from kg_edit.ship.ledger import Ledger

    ledger = Ledger.open(folder)
    content = "a new ledger, without edits"
    if ledger.events:
        content = number_of(len(ledger.active), "edit")
    log.info("%s: %s", ledger.folder, content)
    return ledger


def _write_address(host: str, listener: socket.socket) -> str:
    """Return the page's address, with the port that was picked; an IPv6 address needs brackets."""
    port = listener.getsockname()[1]
    if ":" in host:
        return f"http://[{host}]:{port}/"
    return f"http://{host}:{port}/"


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address and a port."""
    if not host.strip():
        raise ConfigError(
            "--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for requests from every machine"
        )
    try:
        if ":" in host:  # an IPv6 address; where the system can, IPv4 requests are answered too
            family = socket.AF_INET6
            return socket.create_server((host, port), family=family, dualstack_ipv6=socket.has_dualstack_ipv6())
        return socket.create_server((host, port), family=socket.AF_INET)
    except OSError as error:
        other = "--host"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            other = "--port"
        raise ConfigError(f"can't listen at {host}:{port}: {error.strerror or error}; give another {other}") from error


def run(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests at ``listener`` until Ctrl-C."""
    import uvicorn

    with suppress(KeyboardInterrupt):  # uvicorn ends at Ctrl-C, and raises it again
        # uvicorn's own errors are not shown: a cut-off request is answered, and the app logs the errors of requests.
        config = uvicorn.Config(app, lifespan="off", log_level="critical", timeout_graceful_shutdown=_END_S)
        uvicorn.Server(config).run(sockets=[listener])


def host_names(host: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names under which the page answers: another site's name that leads here is refused."""
    from kg_edit.ship.app.guard import ANY_ADDRESS, LOCAL

    additional = tuple(name.strip().lower() for name in names)
    for name in additional:
        if not re.fullmatch(r"[\w.-]+", name):  # the name in a request, with which it is compared, has no port
            raise ConfigError(f"--name {name}: expected a host name without scheme and port, such as lab.example")
    if host in _HERE:
        return (*dict.fromkeys((*LOCAL, host)), *additional)
    log.warning("listening at %s: anyone who can reach this machine can make edits; there is no password", host)
    own_names = ["localhost", socket.gethostname().lower()]
    if host not in _EVERYWHERE:
        own_names.insert(0, host.lower())
    return (*own_names, *additional, ANY_ADDRESS)
