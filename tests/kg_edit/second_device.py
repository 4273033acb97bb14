"""A second device, made of the CPU through torch's own hook for backends in Python.

A tensor there wraps a CPU tensor and reports the other device. An operation on tensors of both devices fails, as with
an accelerator: all but copies, and CPU numbers of no dimension. Indices on the CPU, which an accelerator takes, fail
too: the CPU represents another accelerator. A registration can't be removed, so this needs a process of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "elsewhere"
HERE, ELSEWHERE = torch.device("cpu"), f"{NAME}:0"
_CROSSING = {"aten::copy_", "aten::_to_copy"}
COUNTED: Counter[str] = Counter()
"""How many copies there ("copies") and waits for it ("waits": copies back, and numbers that were read)."""
REFUSED = set[torch.dtype]()
"""The types that the device does not have, as Apple's has no float64."""

_RESIZING = (torch.tensor, torch.as_tensor, torch.eye)  # make an empty tensor first, whose wrapper can't grow


class Held(Tensor):
    """A tensor elsewhere: ``held`` is the CPU tensor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, *, requires_grad: bool = False) -> Held:
        if isinstance(held, Held):  # accelerate makes a parameter as it was: type(old)(new, requires_grad=...)
            parameter = held.detach().requires_grad_(requires_grad)
            parameter._is_param = True
            return parameter
        wrapper: Held = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(ELSEWHERE),
        )
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    name = operation._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    homes = {str(tensor.device) for tensor in tensors if tensor.dim() or isinstance(tensor, Held)}
    if len(homes) > 1 and name not in _CROSSING:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {sorted(homes)}")
    device = kwargs.get("device")
    stays = ELSEWHERE in homes or not tensors if device is None else torch.device(device).type == NAME
    own_args, own_kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Held) else leaf, (args, dict(kwargs)))
    if device is not None:
        own_kwargs["device"] = HERE
    result = operation(*own_args, **own_kwargs)
    if REFUSED and (stays or ELSEWHERE in homes):  # a copy from there converts there, too
        types = {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        if refused := types & REFUSED:
            raise TypeError(f"cannot convert to {refused.pop()} on {ELSEWHERE}, which does not have it")
    if name in _CROSSING and len(homes) + (device is not None and str(torch.device(device)) not in homes) > 1:
        COUNTED["copies" if stays else "waits"] += 1
    if name == "aten::_local_scalar_dense" and ELSEWHERE in homes:
        COUNTED["waits"] += 1
    if name == "aten::copy_":
        return args[0]
    wrappers = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Held)}  # in place: the same wrapper
    return tree_map(lambda leaf: _back(leaf, wrappers) if isinstance(leaf, Tensor) and stays else leaf, result)


def _back(tensor: Tensor, wrappers: Mapping[int, Held]) -> Held:
    return wrappers[id(tensor)] if id(tensor) in wrappers else Held(tensor)


class _Module(backend_registration._DummyBackendModule):
    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(8, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass


class _Functions(TorchFunctionMode):
    """What a wrapper can't do by itself."""

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if function in _RESIZING and options.get("device") is not None:
            return function(*args, **{**options, "device": None}).to(options["device"])
        if function in (Tensor.tolist, Tensor.__format__) and isinstance(args[0], Held):
            COUNTED["waits"] += function is Tensor.tolist
            return function(args[0].held, *args[1:])
        if function is Tensor.numpy and isinstance(args[0], Held):
            raise TypeError(f"can't convert a tensor on {ELSEWHERE} to numpy; use Tensor.cpu() first")
        return function(*args, **options)


def register(*, refused: Collection[torch.dtype] = ()) -> torch.library.Library:
    """Make the device known to torch, without the types ``refused``, for as long as the returned library lives."""
    REFUSED.update(refused)
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
    _Functions().__enter__()
    torch.autograd.set_multithreading_enabled(False)
    return library
