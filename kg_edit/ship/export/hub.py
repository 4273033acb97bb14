"""Upload an exported folder to a hub with huggingface_hub, which reads ``HF_ENDPOINT`` and the token."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

from kg_edit.errors import ConfigError, ServerError

# HTTP statuses
_TOO_LARGE = 413
_TOO_MANY = 429
_HUBS_FAULT = 500
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check_repository(name: str) -> None:
    """Check the name of a repository, before anything is computed."""
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(f"--push {name!r}: expected OWNER/NAME, as the hub names a repository")


def push_folder(folder: str | Path, name: str, *, private: bool) -> str:
    """Upload every file of a folder to a model repository, which is created if needed.

    Args:
        folder: the folder.
        name: the repository, OWNER/NAME.
        private: whether a new repository is private.

    Returns:
        The address of the repository.
    """
    check_repository(name)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=str(folder), commit_message="Export of kg-edit")
    except Exception as error:  # errors of the hub, of its HTTP library, or a missing token
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # The same command would refuse the folder that it has written, so another one uploads it.
        upload = f"hf upload {name} {quote(str(folder))}"
        if private:
            upload += " --private"
        raise ServerError(
            f"can't upload to {name} at {api.endpoint}: {lines[0]}; {_way_out(error)}. The files are in {folder}: "
            f"{upload}"
        ) from error
    return str(repository)


def _way_out(error: Exception) -> str:
    """Return what to do after a failed upload, from the HTTP status if there is one."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code in (401, 403) or "token" in type(error).__name__.lower():
        return "log in with `hf auth login`, or set HF_TOKEN to a token with write access"
    if code is None:
        return "check the connection and the variables HF_ENDPOINT and HF_HUB_OFFLINE"
    if code == _TOO_LARGE:
        return "the hub takes no file of this size; export an adapter, or upload with git"
    if code == _TOO_MANY or code >= _HUBS_FAULT:
        return "the hub is busy or has a fault; try again later"
    return "check the connection and the variables HF_ENDPOINT and HF_HUB_OFFLINE"
