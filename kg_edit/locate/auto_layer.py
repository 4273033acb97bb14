"""`--layer auto`: a sweep whose outcome is kept, so that the same command goes on with the same layer."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

import kg_edit
from kg_edit.edits.edit import Edit
from kg_edit.evaluate.settings import method_settings
from kg_edit.locate.layer_sweep import EDITS, Make, Sweep, choose_layer, spread
from kg_edit.methods.base import MethodConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import cache_folder
from kg_edit.storage.atomic import write_json
from kg_edit.storage.run_folder import digest

log = logging.getLogger(__name__)

_PROTOCOL = 1  # raise it when what is tried or how it is scored changes


def auto_layer(
    make: Make, model: LanguageModel, config: MethodConfig, edits: Sequence[Edit], *, progress: bool = True
) -> Sweep:
    """`choose_layer`, or what it found earlier for the same model, method, settings and edits.

    Raises:
        ConfigError: the method has no setting ``layer``, it is set already, or there is no edit to try.
        KgEditError: no edit could be made at any layer.
    """
    file, start = _file(make, model, config, edits), time.perf_counter()
    sweep = _known(file)
    if sweep is None:
        sweep = choose_layer(make, model, config, edits, progress=progress)
        write_json(file, sweep.model_dump(mode="json"))
    log.info("--layer auto: %s; %.0f s", sweep.why, time.perf_counter() - start)
    return sweep


def _file(make: Make, model: LanguageModel, config: MethodConfig, edits: Sequence[Edit]) -> Path:
    decides = {
        "protocol": _PROTOCOL,
        "kg_edit": kg_edit.__version__,
        **method_settings(make(config), model),
        "model": {"fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
        "edits": [edit.model_dump(mode="json") for edit in spread(edits, EDITS)],
    }
    return cache_folder() / "layers" / f"{digest(decides)[:16]}.json"


def _known(file: Path) -> Sweep | None:
    try:
        return Sweep.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
