"""An export is uploaded to a stand-in of a hub on the loopback interface, by huggingface_hub itself."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import Loopback, QuietHandler

PUSH = """
import sys
from kg_edit.errors import ServerError
from kg_edit.ship.export.hub import push_folder
try:
    print(push_folder(sys.argv[1], sys.argv[2], private=True))
except ServerError as error:
    sys.exit(f"ServerError: {error}")
assert "torch" not in sys.modules
"""


class Hub(Loopback):
    """Keeps repositories and their files; answers every request with ``refusal`` where that is set."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refusal: int | None = None


class Handler(QuietHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.refusal:
            self.reply({"error": "go away"}, self.server.refusal)
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self.reply({"url": f"{self.server.url}/someone/edits"})
        elif self.path.startswith("/api/models/someone/edits/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.reply({"files": files})
        elif self.path.startswith("/api/models/someone/edits/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            uploads = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {file["path"]: base64.b64decode(file["content"]) for file in uploads}
            url = f"{self.server.url}/someone/edits/commit/main"
            self.reply({"success": True, "commitUrl": url, "commitOid": "0" * 40, "hookOutput": ""})
        else:
            self.reply({"errors": [], "warnings": []})  # /api/validate-yaml

    def do_GET(self) -> None:
        self.reply({"sha": "0" * 40, "id": "someone/edits", "siblings": []})

    def reply(self, content: object, status: int = 200) -> None:
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """That of a process which knows this hub alone, and a token that is none elsewhere."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    others = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**others, **own, "HF_TOKEN": "hf_standin"}


def push(folder: Path, name: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads where the hub is when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), name], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_push_uploads_every_file(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    pushed = push(folder, "someone/edits", environment(hub, tmp_path / "home"))
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{hub.url}/someone/edits"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    (repository,) = hub.made
    assert (repository["name"], repository["organization"]) == ("edits", "someone")
    assert repository.get("private") is True or repository.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_standin"}


@pytest.mark.slow
def test_push_error_names_the_reason_and_the_folder(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("# Card\n")
    ways = {401: "hf auth login", 403: "hf auth login", 404: "HF_ENDPOINT", 413: "of this size", 429: "again later"}
    for status, way in (ways | {500: "again later", 503: "again later"}).items():
        hub.refusal = status
        pushed = push(folder, "someone/edits", environment(hub, tmp_path / "home"))
        assert pushed.returncode == 1 and pushed.stderr.startswith("ServerError: can't upload to someone/edits"), (
            pushed.stderr
        )
        assert way in pushed.stderr and f"The files are in {folder}: hf upload someone/edits {folder}" in pushed.stderr
    gone = environment(hub, tmp_path / "home") | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "check the connection" in push(folder, "someone/edits", gone).stderr
    offline = environment(hub, tmp_path / "home") | {"HF_HUB_OFFLINE": "1"}
    assert "HF_HUB_OFFLINE" in push(folder, "someone/edits", offline).stderr
