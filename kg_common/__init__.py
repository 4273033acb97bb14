"""What kg_edit and wikidata_cache share: files, rows, JSON, progress and the terminal. It imports neither of them.

`lazy_names` lets a package import its names at their first use, so that `import` of the package alone stays fast.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` (PEP 562) of a package, from its `__name__` and {module: names it defines}.

    The first imports a name; the second lists the names that are not imported yet as well.
    """
    home: dict[str, str] = {}  # the module of each name
    for module, defined in names.items():
        home |= dict.fromkeys(defined, module)

    def import_name(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has: {', '.join(sorted(home))}")
        value: object = getattr(import_module(home[name]), name)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return import_name, list_names
