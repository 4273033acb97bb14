"""Base classes for the settings of methods. Settings are immutable, validated, and saved with every patch.

`MethodConfig` is the base of every method's settings, `LayerConfig` of methods that write one layer, `GraphSettings` of
methods that read a graph. Types that several methods use in their settings are at the end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

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

from kg_edit.edits.called import Called
from kg_edit.errors import ConfigError, Fault, UnknownNameError, describe, faults_of, unknown_name
from kg_edit.methods.workload import Workload

LARGEST_COUNT = 1_000_000  # of steps, texts, ranks: more would take years, or more memory than any machine has
LARGEST_NUMBER = 1e12  # of rates, weights, bounds: larger ones only overflow
_OTHER_RANGE = ("seed", "covariance.seed", "covariance.tokens")


class MethodConfig(BaseModel, metaclass=Called):
    """Settings of a method. They are immutable, unknown names are an error, and every patch records them.

    Attributes:
        presets: the presets that the class itself defines, besides ``default`` (the fields' defaults): values that
            differ from the defaults, by preset name.
        published_as: the method whose published presets these settings take; None: the method's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    published_as: ClassVar[str | None] = None
    _preset: str = PrivateAttr("default")

    @field_validator("*", mode="wrap")
    @classmethod
    def _values_are_sensible(cls, value: Any, take: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Refuse true and false as numbers (pydantic makes them 1 and 0), huge counts and empty names, also nested."""
        taken = take(value)
        for field, given, expected in cls._faults(value, taken, info.field_name or ""):
            message = f"found {describe(given)}; expected {expected}"
            raise PydanticCustomError("value_error", "{error}", {"error": message, "field": field})
        return taken

    @classmethod
    def _faults(cls, given: Any, taken: Any, field: str) -> Iterator[tuple[str, Any, str]]:
        """Yield (field, value, what is expected) of each bool, huge count or empty name; ``taken`` is validated."""
        if isinstance(given, bool) and not isinstance(taken, bool):
            yield field, given, "a number"
        elif given == "" and not field.endswith("]"):  # an unset variable of a shell; in a list, no first word
            yield field, given, "a name; leave the setting out for none"
        elif isinstance(taken, int) and taken > LARGEST_COUNT and field not in _OTHER_RANGE:
            yield field, given, f"at most {LARGEST_COUNT}"
        elif isinstance(taken, float) and abs(taken) > LARGEST_NUMBER:
            yield field, given, f"at most {LARGEST_NUMBER:g}"
        elif isinstance(given, dict) and isinstance(taken, (dict, BaseModel)):
            inside = dict(taken)
            for name in filter(inside.__contains__, given):
                yield from cls._faults(given[name], inside[name], f"{field}.{name}")
        elif isinstance(given, (list, tuple)) and isinstance(taken, (list, tuple)):
            for number, pair in enumerate(zip(given, taken, strict=False)):
                yield from cls._faults(*pair, f"{field}[{number}]")

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
        presets = {"default": {}, **cls.presets}
        values = presets.get(name)
        if values is None:
            if (published_as := cls.published_as or method) is None:
                raise unknown_name("preset", name, presets)
            from kg_edit.methods.presets import published_settings  # reads its tables only for a preset

            values = published_settings(name, published_as, config_presets=presets)
        if not isinstance(settings or {}, Mapping):
            raise ConfigError(f"found {describe(settings)}; expected settings={{'name': value}}")
        merged = _over(values, _nested(settings or {}))
        of = f" of {method}" if method else ""
        for key in merged:
            if key not in cls.model_fields:
                for name, value in (settings or {}).items() if key == method else ():
                    if (bare := name.removeprefix(f"{method}.")) != name:  # as where several methods run
                        way = f"leave out the method's name, {bare}={value}"
                        raise UnknownNameError(f"unknown setting{of} {name!r}: {way}")
                raise unknown_name(f"setting{of}", key, cls.model_fields)
        try:
            config = cls.model_validate(merged)
        except ValidationError as error:
            raise cls._refused(faults_of(error, cls), of=of) from None
        config._preset = name
        return config

    @property
    def preset_name(self) -> str:
        """The name of the preset whose settings these are, or which they began with."""
        return self._preset

    @classmethod
    def _refused(cls, faults: Iterable[Fault], *, of: str = "") -> ConfigError:
        return ConfigError(
            "\n".join(
                f"setting {fault.field}{of}: {fault.message}" if fault.field else fault.message for fault in faults
            )
        )

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
            if _changed(self, name):
                raise ConfigError(f"setting {name}: it has no effect, because {why}; leave it out")

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers that the method writes in a model of ``blocks`` blocks, ascending; by default none."""
        return ()

    def workload(self, *, edits: int) -> Workload:
        """Return the cost of one edit in a call of ``edits`` edits; `EditingMethod.family` names the computation."""
        return Workload()


def _changed(config: BaseModel, name: str) -> bool:
    """Whether the setting ``name`` (``group.name`` in a group) is not its default."""
    first, _, rest = name.partition(".")
    value = getattr(config, first)
    if rest and isinstance(value, BaseModel):
        return _changed(value, rest)
    return bool(value != type(config).model_fields[first].get_default(call_default_factory=True))


def _over(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's ``values``, overridden by ``settings``; groups such as ``deferral`` are merged key by key."""
    both = {name for name, value in settings.items() if isinstance(value, dict) and isinstance(values.get(name), dict)}
    return {**values, **settings, **{name: _over(values[name], settings[name]) for name in both}}


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put the value of a name such as ``covariance.tokens`` into its group: {"covariance": {"tokens": …}}."""
    nested = {name: value for name, value in settings.items() if "." not in name}
    for name in (name for name in settings if "." in name):
        *groups, last = name.split(".")
        inner: Any = nested
        for group in groups:
            values = inner.get(group, {})
            if not isinstance(values, Mapping) or (group == groups[-1] and last in values):
                raise ConfigError(f"{name} is set twice: by this name, and by {group}; keep one")
            inner[group] = dict(values)
            inner = inner[group]
        inner[last] = settings[name]
    return nested


DEPTH = 0.2


def default_layer(blocks: int) -> int:
    """Return the default layer of methods that write one layer, at 0.2 of the depth: 6 of 30 blocks, 2 of 12."""
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
        """Let the help of ``layer`` name the ``depth`` of this class; fields are copied, so the parent's help stays."""
        field = cls.model_fields["layer"]
        field.description = re.sub(r"[\d.]+(?= of the depth)", f"{cls.depth:g}", field.description or "")

    def layer_in(self, blocks: int) -> int:
        """Return the layer that the method writes in a model of ``blocks`` blocks."""
        return min(round(self.depth * blocks), blocks - 1) if self.layer is None else self.layer

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the edited layer as a tuple of one: (`layer_in`,)."""
        return (self.layer_in(blocks),)


def _ascending(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or min(layers) < 0 or list(layers) != sorted(set(layers)):
        raise ValueError(f"found {list(layers)}; expected layer numbers from 0 in ascending order, each once")
    return layers


Layers = Annotated[
    tuple[int, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
    AfterValidator(_ascending),
]
"""Indices of blocks, 0-based, in ascending order without repeats; a single one needs no list."""

ContextLengths = tuple[tuple[Annotated[int, Field(ge=2)], NonNegativeInt], ...]
"""(tokens, count) of the sampled contexts; the start-of-document token counts as one of the tokens."""
