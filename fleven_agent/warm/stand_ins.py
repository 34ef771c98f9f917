"""Stand-ins for modules that Flower imports on a car and never uses there: databases, a web server, another client.

SuperNode, its executor and ClientApps keep everything in memory and speak gRPC, but importing them brings SQLAlchemy,
Alembic, FastAPI and httpx: half of what an idle car's processes hold. A stand-in has what Flower names while it is
imported, and gets the real module if Flower uses it after all. Nobody else ever sees one: an app that imports httpx
gets httpx. Nothing is replaced in a release of Flower whose imports nobody has looked at. Standard library only.
"""

import contextlib
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from fleven_agent.warm.flower_internals import installed_internals


class StandIn(ModuleType):
    """A module in which all but the names that Flower takes while it is imported is that of the real one.

    Args:
        name: of the module.
        taken: names of classes, functions and modules; a module is given as ``status=starlette.status``.
    """

    def __init__(self, name: str, taken: Sequence[str]) -> None:
        super().__init__(name)
        for one in taken:
            attribute, _, module = one.partition("=")
            self.__dict__[attribute] = importlib.import_module(module) if module else placeholder(name, attribute)

    def __getattr__(self, attribute: str) -> object:
        """Return what the real module has, which is imported for it."""
        if attribute.startswith("__"):  # the import itself asks for some of these
            raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r}")
        module = importlib.import_module(self.__name__)
        if module is self:
            raise ImportError(f"{self.__name__} is used while Flower is imported")
        return getattr(module, attribute)


def placeholder(module: str, name: str) -> type:
    """Return a class for a name that Flower's own modules bind: enough for an annotation; a call calls the real one."""

    def call(_class: type, *arguments: object, **options: object) -> object:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return type(name, (), {"__new__": call, "__module__": module})


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Within the block Flower is imported without what it does not need; as ever in one that nobody has looked at."""
    flower = installed_internals()
    made: list[StandIn] = []
    try:
        if importlib.metadata.version("flwr") in flower.stand_in_releases:
            for name in (name for name in flower.stand_ins if name not in sys.modules):
                made.append(StandIn(name, flower.stand_ins[name]))
                sys.modules[name] = made[-1]
        yield
    finally:
        for one in made:
            if sys.modules.get(one.__name__) is one:
                del sys.modules[one.__name__]
