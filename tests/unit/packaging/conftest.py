"""Makes the modules of the folder packaging/ importable: it is no package, and shares its name with a library."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """Return a function that loads packaging/NAME.py."""

    def load_module(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"fleven_packaging_{name}", PROJECT / f"packaging/{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load_module
