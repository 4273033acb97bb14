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
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        way = "check the connection and the variables HF_ENDPOINT and HF_HUB_OFFLINE"
        code = getattr(getattr(error, "response", None), "status_code", None)
        if code in (401, 403) or "token" in type(error).__name__.lower():
            way = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"
        elif code == _TOO_LARGE:
            way = "the hub takes no file of this size; export an adapter, or upload with git"
        elif code is not None and (code == _TOO_MANY or code >= _HUBS_FAULT):
            way = "the hub is busy or has a fault; try again later"
        # The same command would refuse the folder that it has written
        upload = f"hf upload {name} {quote(str(folder))}{' --private' * private}"
        message = f"can't upload to {name} at {api.endpoint}: {first}; {way}. The files are in {folder}: {upload}"
        raise ServerError(message) from error
    return str(repository)
