"""Packages that import a module of theirs when a name in it is asked for: `--help` does not wait for torch."""

import gc
import sys
from collections.abc import Callable
from importlib import import_module


def lazy_names(package: str, modules: dict[str, tuple[str, ...]]) -> tuple[Callable[[str], object], list[str]]:
    """`__getattr__` and `__all__` of a package whose modules hold those names: {module: names}, relative to it."""
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        collects = gc.isenabled()
        gc.disable()  # what modules are made of stays: to look for garbage among it takes a fifth of their import
        try:
            value = getattr(import_module(module_of[name], package), name)
        finally:
            if collects:
                gc.enable()
        setattr(sys.modules[package], name, value)
        return value

    return get, sorted(module_of)
