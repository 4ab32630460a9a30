"""Python imports this at its start in every process that a test on PostgreSQL starts, because the
folder is on their PYTHONPATH: when `bessemer.core.database` is imported, `homes` is installed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

TARGET = "bessemer.core.database"


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        path = Path(__file__).parents[1] / "homes.py"
        spec = importlib.util.spec_from_file_location("bessemer_test_homes", path)
        assert spec is not None and spec.loader is not None
        homes = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(homes)
        homes.install()


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
