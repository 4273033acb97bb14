"""Stand-ins for vLLM, SGLang and llama.cpp's server: their routes for adapters as those programs have them.

What vLLM 0.32 replies was looked up in a running one; `test_real_servers.py` compares it where vLLM is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.loopback import Loopback, QuietHandler

BASE = "base"
SUCCESS = "Success: LoRA adapter '{}' {} successfully."


class StandIn(Loopback):
    """A server with one base model; it generates ``texts`` after their prompts with an adapter, and nothing without.

    Attributes:
        adapters: the path of each adapter that is loaded, by name.
        limit: the largest rank that the server takes.
        fault: what goes wrong, and in which of the requests to load an adapter (from 1 on).
    """

    owner = "vllm"
    start = "/v1"

    def __init__(self, **options: Any) -> None:
        super().__init__(Handler)
        self.adapters: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.limit: int = options.get("limit", 8)
        self.replaces_in_place: bool = options.get("replaces_in_place", True)
        self.takes_adapters: bool = options.get("takes_adapters", True)
        self.fault: tuple[str, int] = options.get("fault", ("", 0))
        self.loads = 0
        self.is_down = False
        self.asked: list[dict[str, Any]] = []

    @property
    def models(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = [{"id": BASE, "owned_by": self.owner, "root": BASE, "parent": None}]
        for name, path in self.adapters.items():
            listed.append({"id": name, "owned_by": self.owner, "root": path, "parent": BASE})
        return listed

    def change(self, route: str, body: dict[str, Any]) -> tuple[int, str]:
        """Load or unload an adapter, and return the status and the text of the reply."""
        name = body["lora_name"]
        if route == "unload_lora_adapter":
            if name not in self.adapters:
                return self.problem(404, f"The lora adapter '{name}' cannot be found.")
            del self.adapters[name]
            return self.success(name, "removed")
        if name in self.adapters and not (body.get("load_inplace") and self.replaces_in_place):
            return self.problem(400, f"The lora adapter '{name}' has already been loaded.")
        config = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
        if config["r"] > self.limit:
            return self.problem(500, f"LoRA rank {config['r']} is greater than max_lora_rank {self.limit}.")
        self.adapters[name] = body["lora_path"]
        return self.success(name, "added")

    def success(self, name: str, what: str) -> tuple[int, str]:
        return 200, SUCCESS.format(name, what)

    def problem(self, status: int, message: str) -> tuple[int, str]:
        return status, json.dumps({"error": {"message": message, "type": "BadRequestError", "code": status}})

    def text(self, body: dict[str, Any]) -> str:
        """The text after a prompt."""
        return self.texts.get(body["prompt"], "") if body["model"] in self.adapters else ""


class Sglang(StandIn):
    """SGLang: no ``/v1`` before the routes, JSON replies, nothing is replaced in place; it asks for BASE:NAME."""

    owner = "sglang"
    start = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, replaces_in_place=False)

    def success(self, name: str, what: str) -> tuple[int, str]:
        return 200, json.dumps({"success": True, "error_message": "", "loaded_adapters": self.adapters})

    def problem(self, status: int, message: str) -> tuple[int, str]:
        return 400, json.dumps({"success": False, "error_message": message, "loaded_adapters": None})

    def text(self, body: dict[str, Any]) -> str:
        base, _, adapter = body["model"].partition(":")
        return self.texts.get(body["prompt"], "") if base == BASE and adapter in self.adapters else ""


class Llama(StandIn):
    """llama.cpp's server, started with these adapter files, which are not applied."""

    owner = "llamacpp"

    def __init__(self, *files: Path, **options: Any) -> None:
        super().__init__(**options)
        self.files = [str(file) for file in files]
        self.scales = [0.0] * len(files)

    @property
    def listed(self) -> list[dict[str, Any]]:
        return [
            {"id": number, "path": path, "scale": scale, "task_name": "", "prompt_prefix": ""}
            for number, (path, scale) in enumerate(zip(self.files, self.scales, strict=True))
        ]

    def set_scales(self, body: list[dict[str, Any]]) -> None:
        given = {entry["id"]: entry["scale"] for entry in body}
        self.scales = [given.get(number, 0.0) for number in range(len(self.files))]

    def text(self, body: dict[str, Any]) -> str:
        applied = self.scales
        if "lora" in body:
            given = {entry["id"]: entry["scale"] for entry in body["lora"]}
            applied = [given.get(number, 0.0) for number in range(len(self.files))]
        return self.texts.get(body["prompt"], "") if any(applied) else ""


class Handler(QuietHandler):
    server: StandIn

    def do_GET(self) -> None:
        if self.server.is_down:
            self.close_connection = True
            return
        if self.path == "/lora-adapters" and isinstance(self.server, Llama):
            self.answer(200, json.dumps(self.server.listed).encode())
            return
        if self.path != "/v1/models":
            self.answer(404, b'{"detail":"Not Found"}')
            return
        reply: dict[str, Any] = {"object": "list", "data": self.server.models}
        if self.server.fault[0] == "lists nonsense":
            reply = {"models": "many"}
        self.answer(200, json.dumps(reply).encode())

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            server.asked.append(body)
            self.answer(200, json.dumps({"choices": [{"text": server.text(body)}]}).encode())
        elif self.path == "/lora-adapters" and isinstance(server, Llama):
            self._set_scales(server, body)
        elif self.path.rpartition("/")[0] == server.start and server.takes_adapters:
            self._change(server, self.path.rpartition("/")[2], body)
        else:
            self.answer(404, b'{"detail":"Not Found"}')

    def _set_scales(self, server: Llama, body: list[dict[str, Any]]) -> None:
        server.loads += 1
        if server.fault == ("ignores", server.loads):
            self.answer(200, b'{"success":true}')
            return
        server.set_scales(body)
        self.answer(200, b'{"success":true}')

    def _change(self, server: StandIn, route: str, body: dict[str, Any]) -> None:
        """Load or unload an adapter; the fault comes at the load of its number."""
        fault = ""
        if route == "load_lora_adapter":
            server.loads += 1
            fault = server.fault[0] if server.loads == server.fault[1] else ""
        if fault == "says nonsense":  # and loads nothing
            self.answer(200, b"<html>")
            return
        if fault == "dies before":
            self.close_connection = True
            return
        status, text = server.change(route, body)
        server.is_down = fault == "dies for good"
        if fault in ("dies after", "dies for good"):  # the adapter is loaded, and nobody says so
            self.close_connection = True
            return
        self.answer(status, text.encode())
