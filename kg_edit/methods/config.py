"""Base classes for the settings of methods. Settings are immutable, validated, and saved with every patch.

`MethodConfig` is the base of every method's settings, `LayerConfig` of methods that write one layer, `GraphSettings` of
methods that read a graph. `Workload` is what `kg_edit.planning` computes the needed memory from, before a model is
loaded: it does not have to know the settings of methods. Types that several methods use in their settings are at the
end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError

from kg_edit.covariance.store import CovarianceConfig
from kg_edit.errors import ConfigError, Fault, UnknownNameError, describe, faults_of, unknown_name

LARGEST_COUNT = 1_000_000  # of steps, texts, ranks: more would take years, or more memory than any machine has
LARGEST_NUMBER = 1e12  # of rates, weights, bounds: larger ones only overflow
_ANY_SIZE = ("seed", "covariance.seed", "covariance.tokens")  # settings that may exceed LARGEST_COUNT


Family = Literal[
    "rank-one",  # a value by descent, written under one key in one layer (ROME, GLAME)
    "joint",  # values by descent, written together in one or several layers (MEMIT)
    "fine-tuning",  # descent on a whole weight
    "low-rank",  # descent on low-rank factors (LoRA)
    "adapter",  # a trained module that changes the output of a layer (MEMOIR, T-Patcher)
    "codebook",  # a value by descent, that replaces the output of a layer (GRACE)
    "neurons",  # integrated gradients in all layers (KN)
    "gradient",  # one gradient, written by least squares (UltraEdit)
    "hypernetwork",  # one gradient, changed by a trained network (MEND)
    "in-context",  # a prompt: nothing is computed
]

Trains = Literal["value", "graph network", "weight", "all weights", "adapters", "nothing"]
"""What an optimiser trains: a value [d], an R-GNN, a matrix [d, d_ff], all matrices of the blocks, low-rank factors."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The numbers that decide how much memory one edit takes; none of them needs a model.

    Attributes:
        rows: the rows of tokens that one evaluation of the loss runs: the prompt in each of its contexts, or the
            prompts that are trained.
        context_tokens: the tokens of all contexts together, which run once for all edits. In training: the tokens of
            all texts of a step that are not its prompts.
        facts: the number of facts that are written for one edit, each with a descent of its own.
        covariance: from what C is measured; None if the method uses no C.
        hops: the number of layers of the R-GNN that is trained; 0 if there is no R-GNN.
        rank: the rank of the trained change (LoRA's r).
        matrices: the number of changed weights in each layer.
        dense: whether the patch stores whole matrices, although the change that was found has a low rank.
        keys: whether the patch stores a key [d_ff] of each fact in each layer, for later edits.
        together: how many edits run in the same passes, although each is written alone.
        kept: how many tokens of an edit have their keys and values kept for later edits
            (`kg_edit.engine.prefix_store`).
    """

    rows: int = 1
    context_tokens: int = 0
    facts: int = 1
    covariance: CovarianceConfig | None = None
    hops: int = 0
    rank: int = 1
    matrices: int = 1
    dense: bool = False
    keys: bool = False
    together: int = 1
    kept: int = 0


class MethodConfig(BaseModel):
    """Settings of a method. They are immutable, unknown names are an error, and every patch records them.

    Attributes:
        presets: the presets that the class itself defines, besides ``default`` (the fields' defaults): values that
            differ from the defaults, by preset name.
        published_as: the method whose published presets these settings take; None: the method's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    published_as: ClassVar[str | None] = None
    # Private, because a patch records the settings themselves, whichever preset they began with
    _preset_name: str = PrivateAttr("default")

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise _config_error(faults_of(error, type(self))) from None

    # Pydantic's own mark for an `__init__` that only calls that of BaseModel. With it `model_validate` does not call
    # this one, so a group inside other settings raises pydantic's error, and `preset` words its errors itself.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("*", mode="wrap")
    @classmethod
    def _refuse_odd_values(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Refuse true and false as numbers (pydantic makes them 1 and 0), huge counts and empty names, also nested."""
        validated = validate(value)
        odd_values = cls._find_odd_values(value, validated, info.field_name or "")
        first = next(odd_values, None)
        if first is None:
            return validated
        field, odd_value, expected = first
        # `faults_of` reads these two keys of pydantic's context: the message, and the field that it is about.
        context = {"error": f"found {describe(odd_value)}; expected {expected}", "field": field}
        raise PydanticCustomError("value_error", "{error}", context)

    @classmethod
    def _find_odd_values(cls, raw: Any, validated: Any, field: str) -> Iterator[tuple[str, Any, str]]:
        """Yield (field, value, what is expected) of each bool, huge count or empty name in a value.

        ``raw`` is the value as it was passed in, ``validated`` what pydantic made of it. For the field covariance, of
        {"tokens": True} pydantic makes a CovarianceConfig with tokens=1, and this yields ("covariance.tokens", True,
        "a number").
        """
        if isinstance(raw, bool) and not isinstance(validated, bool):
            yield field, raw, "a number"
        elif raw == "" and not field.endswith("]"):  # such as an unset variable of a shell; in a list "" is a word
            yield field, raw, "a name; leave the setting out for none"
        elif isinstance(validated, int) and validated > LARGEST_COUNT and field not in _ANY_SIZE:
            yield field, raw, f"at most {LARGEST_COUNT}"
        elif isinstance(validated, float) and abs(validated) > LARGEST_NUMBER:
            yield field, raw, f"at most {LARGEST_NUMBER:g}"
        elif isinstance(raw, dict) and isinstance(validated, (dict, BaseModel)):
            validated_entries = dict(validated)
            for name, raw_entry in raw.items():
                if name in validated_entries:
                    yield from cls._find_odd_values(raw_entry, validated_entries[name], f"{field}.{name}")
        elif isinstance(raw, (list, tuple)) and isinstance(validated, (list, tuple)):
            for number, (raw_entry, entry) in enumerate(zip(raw, validated, strict=False)):
                yield from cls._find_odd_values(raw_entry, entry, f"{field}[{number}]")

    @classmethod
    def preset(
        cls, name: str = "default", settings: dict[str, Any] | None = None, *, method: str | None = None
    ) -> Self:
        """Return the settings of a preset; ``settings`` overrides single values.

        Args:
            name: a name of ``presets``, or a published one of the method in `kg_edit.methods.presets`.
            settings: values that override the preset's; one in a group is ``{"covariance": {"tokens": …}}`` or
                ``{"covariance.tokens": …}``.
            method: the method's name, for a published preset: several methods may share this class.

        Raises:
            UnknownNameError: the preset or a setting is unknown.
            ConfigError: a value is invalid, or given twice.
        """
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            raise ConfigError(f"found {describe(settings)}; expected settings={{'name': value}}")
        values = _merge(cls._preset_values(name, method), _nest(settings))
        cls._refuse_unknown(values, settings, method=method)
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            raise _config_error(faults_of(error, cls), method=method) from None
        config._preset_name = name  # a private attribute may be set although the settings are frozen
        return config

    @classmethod
    def _preset_values(cls, name: str, method: str | None) -> dict[str, Any]:
        """Return the values of a preset: of this class, or published for the method."""
        presets = {"default": {}, **cls.presets}
        if name in presets:
            return presets[name]
        published_as = cls.published_as or method
        if published_as is None:
            raise unknown_name("preset", name, presets)
        from kg_edit.methods.presets import published_settings  # here, as it reads a table of all published presets

        return published_settings(name, published_as, config_presets=presets)

    @classmethod
    def _refuse_unknown(cls, values: Mapping[str, Any], settings: Mapping[str, Any], *, method: str | None) -> None:
        """Refuse the first of ``values`` that is not a setting; ``settings`` has them as the caller wrote them."""
        unknown = [name for name in values if name not in cls.model_fields]
        if not unknown:
            return
        kind = f"setting{_of_method(method)}"
        if unknown[0] == method:  # rome.steps=3, as where several methods run; `_nest` made {"rome": {"steps": 3}}
            prefix = f"{method}."
            for name, value in settings.items():
                if name.startswith(prefix):
                    way = f"leave out the method's name, {name.removeprefix(prefix)}={value}"
                    raise UnknownNameError(f"unknown {kind} {name!r}: {way}")
        raise unknown_name(kind, unknown[0], cls.model_fields)

    @property
    def preset_name(self) -> str:
        """The name of the preset whose settings these are, or which they began with."""
        return self._preset_name

    @classmethod
    def preset_names(cls) -> tuple[str, ...]:
        """Return the names of the presets that the class itself defines; ``default`` comes first."""
        return tuple(dict.fromkeys(("default", *cls.presets)))

    def idle(self) -> Mapping[str, str]:
        """Return the settings that have no effect together with the others, and why; nested ones as ``group.name``."""
        return {}

    def refuse_idle(self) -> None:
        """Check that settings without effect have their defaults.

        Raises:
            ConfigError: one of them was changed.
        """
        for name, why in self.idle().items():
            if _is_changed(self, name):
                raise ConfigError(f"setting {name}: it has no effect, because {why}; leave it out")

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers that the method writes in a model of ``blocks`` blocks, ascending; by default none."""
        return ()

    @property
    def most_steps(self) -> tuple[int, int]:
        """The largest number of steps of a descent, and of further ones; (0, 0) if the method has no such limits."""
        return 0, 0

    def workload(self, *, edits: int) -> Workload:
        """Return the cost of one edit in a call of ``edits`` edits; `EditingMethod.family` names the computation."""
        return Workload()


def _config_error(faults: Iterable[Fault], *, method: str | None = None) -> ConfigError:
    """Return one error with a line for each fault."""
    lines = []
    for fault in faults:
        line = fault.message
        if fault.field:
            line = f"setting {fault.field}{_of_method(method)}: {line}"
        lines.append(line)
    return ConfigError("\n".join(lines))


def _of_method(method: str | None) -> str:
    """Return " of rome" for a message about a setting; "" if the method is not known."""
    return f" of {method}" if method else ""


def _is_changed(config: BaseModel, name: str) -> bool:
    """Return whether the setting ``name`` (``group.name`` in a group) is not its default."""
    first, _, rest = name.partition(".")
    value = getattr(config, first)
    if rest and isinstance(value, BaseModel):
        return _is_changed(value, rest)
    return bool(value != type(config).model_fields[first].get_default(call_default_factory=True))


def _merge(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset's ``values``, overridden by ``settings``; groups such as ``deferral`` are merged key by key."""
    merged = {**values, **settings}
    for name, value in settings.items():
        preset_value = values.get(name)
        if isinstance(value, dict) and isinstance(preset_value, dict):
            merged[name] = _merge(preset_value, value)
    return merged


def _nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put the value of a name with dots into its group: {"covariance.tokens": 5} becomes {"covariance": {"tokens": 5}}.

    Groups may be nested, and a group may also be given as a whole, if no value of it is given twice.
    """
    nested = {name: value for name, value in settings.items() if "." not in name}
    for name, value in settings.items():
        if "." not in name:
            continue
        *groups, last = name.split(".")
        innermost: Any = nested
        for group in groups:
            values = innermost.get(group, {})
            if not isinstance(values, Mapping):
                raise _set_twice(name, group)
            innermost[group] = dict(values)  # a copy, as the caller's own dict must stay as it is
            innermost = innermost[group]
        if last in innermost:
            raise _set_twice(name, groups[-1])
        innermost[last] = value
    return nested


def _set_twice(name: str, group: str) -> ConfigError:
    return ConfigError(f"{name} is set twice: by this name, and by {group}; keep one")


DEPTH = 0.2  # of default layers, as a fraction of the number of blocks


def default_layer(blocks: int) -> int:
    """Return the layer at 0.2 of the depth, the middle of those that joint methods write by default: 6 of 30 blocks."""
    return round(DEPTH * blocks)


class LayerConfig(MethodConfig):
    """Settings of methods that write one layer. ``--layer`` chooses the layer; ``--layer auto`` tries several.

    Attributes:
        depth: where the default layer is, as a fraction of the number of blocks.
        writes_weight: whether the method changes the layer's weight, and not only its output.
    """

    depth: ClassVar[float] = DEPTH
    writes_weight: ClassVar[bool] = True

    layer: int | None = Field(None, ge=0, description=f"edited layer, 0-based; default {DEPTH} of the depth")

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Let the help of ``layer`` name the ``depth`` of this class, such as 0.5: "default 0.5 of the depth".

        Pydantic calls this when a subclass has been made. Its fields are copies, so the parent's help stays.
        """
        field = cls.model_fields["layer"]
        field.description = re.sub(r"[\d.]+(?= of the depth)", f"{cls.depth:g}", field.description or "")

    def layer_in(self, blocks: int) -> int:
        """Return the layer that the method writes in a model of ``blocks`` blocks."""
        if self.layer is not None:
            return self.layer
        return min(round(self.depth * blocks), blocks - 1)

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the edited layer as a tuple of one: (`layer_in`,)."""
        return (self.layer_in(blocks),)


def _as_tuple(value: object) -> object:
    if isinstance(value, int):
        return (value,)
    return value


def _refuse_disorder(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or min(layers) < 0 or list(layers) != sorted(set(layers)):
        raise ValueError(f"found {list(layers)}; expected layer numbers from 0 in ascending order, each once")
    return layers


Layers = Annotated[tuple[int, ...], BeforeValidator(_as_tuple), AfterValidator(_refuse_disorder)]
"""Indices of blocks, 0-based, in ascending order without repeats; a single one needs no list."""

ContextLengths = tuple[tuple[Annotated[int, Field(ge=2)], NonNegativeInt], ...]
"""(tokens, count) of the sampled contexts; the start-of-document token counts as one of the tokens."""
