"""Names of a package that are imported when first used, so that importing the package costs almost nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``package``. home: name -> submodule that defines it."""

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home[name]}", package), name)
        if isinstance(value, ModuleType):  # imported before, it hides what is called as its module is: train.train
            value = getattr(value, name, value)
        setattr(sys.modules[package], name, value)
        return value

    return find
