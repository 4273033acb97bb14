"""Upload an exported folder to a hub, through huggingface_hub: ``HF_ENDPOINT`` and the token are as it has them."""

from __future__ import annotations

import re
from pathlib import Path

from kg_edit.errors import ConfigError, ServerError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_CLOSED = (401, 403)


def check_repository(name: str) -> None:
    """Refuse what is no repository's name, before anything is computed.

    Raises:
        ConfigError: it is not of the form OWNER/NAME.
    """
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(f"--push {name!r}: expected OWNER/NAME, as the hub names a repository")


def push_folder(folder: str | Path, name: str, *, private: bool = False, message: str = "Export of kg-edit") -> str:
    """Upload every file of a folder to the model repository ``name``, made if there is none; its address.

    Raises:
        ConfigError: ``name`` is not of the form OWNER/NAME.
        ServerError: the hub can't be reached, or refuses; nothing is lost here.
    """
    check_repository(name)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=str(folder), commit_message=message)
    except Exception as error:  # its own errors, those of its HTTP library, a token that is missing
        raise ServerError(_refusal(Path(folder), name, str(api.endpoint), error)) from error
    return str(made)


def _refusal(folder: Path, name: str, endpoint: str, error: Exception) -> str:
    code = getattr(getattr(error, "response", None), "status_code", None)
    closed = code in _CLOSED or "token" in type(error).__name__.lower()
    way = (
        "log in with `hf auth login`, or give a token that may write in HF_TOKEN"
        if closed
        else "see whether it can be reached (HF_ENDPOINT, HF_HUB_OFFLINE)"
    )
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"can't upload to {name} at {endpoint}: {first}; {way}. The files are in {folder}"
