"""`Called`: the class of pydantic models that a user makes by a call, such as ``Edit(subject=…)`` or ``RomeConfig(…)``.

Wrong fields of such a call raise a `KgEditError`. Reading data (``model_validate``) raises pydantic's own error, from
which a reader of files makes messages with the row.
"""

from __future__ import annotations

from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kg_edit.errors import Fault, faults_of

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class Called(ModelMetaclass):
    """A metaclass. Its classes define ``_refused``, which makes the error of a call from the faults of the fields.

    `help` and tab show the names of this package only, and the plain types of the fields.
    """

    model_fields: dict[str, FieldInfo]  # pydantic's

    if not TYPE_CHECKING:  # for mypy, a call has the fields of the class as its parameters

        def __call__(self, *values: object, **fields: object) -> Any:  # noqa: D102 - the classes have docstrings
            if values:
                names = [name for name, field in self.model_fields.items() if field.is_required()] or [
                    *self.model_fields
                ]
                shown = ", ".join(f"{name}=…" for name in names[:3])
                raise self._refused([Fault("", f"fields are given by name: {self.__name__}({shown})")])
            try:
                return super().__call__(**fields)
            except ValidationError as error:
                raise self._refused(faults_of(error, self)) from None

    def __dir__(self) -> list[str]:
        names = {name for kind in self.__mro__ if isinstance(kind, Called) for name in vars(kind)}
        return sorted(name for name in names if not name.startswith(("_", "model_")))

    @property
    def __signature__(self) -> Signature:
        fields = self.model_fields
        types = get_type_hints(
            SimpleNamespace(__annotations__={name: info.annotation for name, info in fields.items()})
        )
        defaults = {name: info.default for name, info in fields.items() if not info.is_required()}
        return Signature(
            [
                Parameter(name, Parameter.KEYWORD_ONLY, default=defaults.get(name, Parameter.empty), annotation=kind)
                for name, kind in types.items()
            ]
        )

    @__signature__.setter
    def __signature__(self, _: object) -> None:
        """Leave out pydantic's signature, which shows every check of every type."""
