"""The routes about the models of `kg-edit serve`: their list, and loading and unloading patches, as vLLM has them.

``POST /v1/load_lora_adapter`` reads a path of this machine, which may be any patch of kg-edit, a ledger, or a PEFT
adapter. `kg-edit patch push` uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from kg_edit.edits.edit import Name, Record
from kg_edit.errors import UnknownNameError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kg_edit.ship.app.served_models import ServedModel, ServedModels

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"


class LoadRequest(Record):
    """A patch to serve; further fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    lora_name: Name = Field(description="the name by which requests ask for the patch")
    lora_path: Name = Field(description="a patch file, ledger, folder of `kg-edit edit`, or PEFT adapter, here")
    load_inplace: bool = Field(False, description="true: replace the patch that has this name")


class UnloadRequest(Record):
    """A patch that is served no longer; further fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    lora_name: Name = Field(description="its name")


def add_models_api(app: FastAPI, models: ServedModels) -> None:
    """Add the routes to the application."""

    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        """Return all models that are served; the first one has the ledger's active edits."""
        return {"object": "list", "data": [_describe_model(served) for served in models.listed()]}

    @app.get("/v1/models/{name:path}")
    def show_model(name: str) -> dict[str, Any]:
        """Return a served model, by its name, which may be a path."""
        for served in models.listed():
            if served.name == name:
                return _describe_model(served)
        raise UnknownNameError(f"unknown model {name!r}; GET /v1/models lists all")

    @app.post(LOAD)
    def load(request: LoadRequest) -> dict[str, str]:
        """Serve a patch; nothing is changed if it can't be read or is for another model."""
        models.load(request.lora_name, request.lora_path, replace=request.load_inplace)
        return {"loaded": request.lora_name, "path": request.lora_path}

    @app.post(UNLOAD)
    def unload(request: UnloadRequest) -> dict[str, str]:
        """Serve a patch no longer; requests that have begun are answered with it."""
        models.unload(request.lora_name)
        return {"unloaded": request.lora_name}


def _describe_model(served: ServedModel) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "owned_by": "kg-edit",
        "root": served.root,
        "parent": served.parent,
    }
