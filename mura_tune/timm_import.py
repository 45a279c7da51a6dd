"""Import timm without torch's compiler.

timm and torchvision import `torch._dynamo`, with 800 modules and sympy, for four functions that
only a compiled network needs. Whoever compiles or trains imports it later. See
docs/decisions/timm-import.md.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_DYNAMO, _UTILS = "torch._dynamo", "torch._dynamo.utils"


def import_timm() -> None:
    """Import timm, and leave `torch._dynamo` out where this torch allows it.

    torchvision asks `torch._dynamo.utils` whether a device compiles, once it is to compile one of
    its operations: the function that it gets asks the real one then. timm takes three functions
    from the compiler by `torch.compiler.disable`; `torch._disable_dynamo` does the same at their
    first call. Where a torch has no such name, or either package was imported before, this is a
    plain import.
    """
    disable_later = getattr(torch, "_disable_dynamo", None)
    if disable_later is None or not {_DYNAMO, "torchvision", "timm"}.isdisjoint(sys.modules):
        import_module("timm")
        return
    sys.modules[_UTILS] = stand_in = _stand_in()
    disable = torch.compiler.disable
    try:
        vars(torch.compiler)["disable"] = disable_later
        import_module("timm")
    finally:
        vars(torch.compiler)["disable"] = disable
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]


def _stand_in() -> ModuleType:
    """A module whose names are those of `torch._dynamo.utils`, which is imported to give them."""
    module = ModuleType(_UTILS)

    def real(name: str) -> Any:
        if name.startswith("__"):  # what anybody asks any module
            raise AttributeError(name)
        if sys.modules.get(_UTILS) is module:
            del sys.modules[_UTILS]
        return getattr(import_module(_UTILS), name)

    def is_compile_supported(device: str) -> bool:
        return bool(real("is_compile_supported")(device))

    vars(module).update(__getattr__=real, is_compile_supported=is_compile_supported)
    return module
