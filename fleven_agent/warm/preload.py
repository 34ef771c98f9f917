"""What the warm process imports: Flower's client side, torch and numpy, and whatever tasks have imported besides.

Nothing that keeps a thread: only a process with one thread may fork. A module that breaks this rule, or brings an
app's code in, cannot be unloaded; it is remembered and left out at the next start. Never anything of an app: neither
``fleven`` nor a file under FLWR_HOME, so that a task always runs the code of its own bundle.
"""

import ast
import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.util
import logging
import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from fleven_agent.warm.flower_internals import installed_internals
from fleven_agent.warm.memory import holds_more_than, settle
from fleven_agent.warm.stand_ins import standing_in

log = logging.getLogger(__name__)


class CulpritError(Exception):
    """A module that must not be in the warm process was imported; it cannot be unloaded."""

    def __init__(self, module: str, why: str) -> None:
        super().__init__(f"{module}: {why}")
        self.module = module
        self.why = why


class Preloader:
    """Imports modules, at most once each, while there is memory for them."""

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._done: set[str] = set()

    def missing(self, modules: Iterable[str], left_out: Iterable[str]) -> list[str]:
        """Return those of ``modules`` that are neither loaded, nor tried before, nor left out."""
        shunned = FORBIDDEN_PACKAGES | {name.partition(".")[0] for name in left_out}
        return [
            name
            for name in modules
            if name not in sys.modules and name not in self._done and name.partition(".")[0] not in shunned
        ]

    def load(self, modules: Iterable[str], stop: Callable[[], bool] = lambda: False) -> bool:
        """Import ``modules`` in order; returns False when ``stop`` said so before the end.

        What cannot be imported is skipped, and so is all that comes after memory is full. Raises ``CulpritError`` for
        a module that started a thread or brought an app's code in.
        """
        with loading_quietly():
            for name in modules:
                if stop():
                    return False
                self._done.add(name)
                if name in sys.modules or holds_more_than(self._maximum_bytes):
                    continue
                before = set(sys.modules)
                _import(name)
                if new := [loaded for loaded in list(sys.modules) if loaded not in before]:
                    check_after(name, new)
        return True


def warm_up(
    preloader: Preloader,
    wanted: Iterable[str],
    learned: Iterable[str],
    left_out: Iterable[str],
    stop: Callable[[], bool],
) -> None:
    """Import what every task needs, what the operator names, and then what tasks have imported until ``stop``.

    Raises ``CulpritError``.
    """
    gc.disable()
    try:
        if defaults := preloader.missing(installed_internals().preloaded_modules, left_out):
            preloader.load(defaults)
            settle()  # what loading torch leaves unused would count against the limit for the others
        preloader.load(preloader.missing(wanted, left_out))
        preloader.load(preloader.missing(learned, left_out), stop=stop)
    finally:
        gc.enable()
    _prepare_for_forks()


def _prepare_for_forks() -> None:
    """Do once what each task would do to memory that it shares with this process, and so copy page by page."""
    installed_folders()
    leave_finalizers()
    sys.path_importer_cache.clear()  # hundreds of folders that no task looks into again
    importlib.invalidate_caches()


def leave_finalizers() -> None:
    """Have nothing done at the end that what was imported so far asks for: a fork would do it as well.

    PyTorch takes each operator back that it has registered: 20 ms of CPU a moment before a task ends for good.
    """
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False


def check_after(name: str, new: Iterable[str]) -> None:
    """Raise ``CulpritError`` when importing ``name`` left a thread behind, or an app's module among the ``new``."""
    quiet_threads()
    if thread_count() > 1 or threading.active_count() > 1:
        raise CulpritError(name, "keeps a thread")
    if found := app_modules(new):
        raise CulpritError(name, f"brings {found[0]} of an app")


def _import(name: str) -> None:
    try:
        with standing_in() if name.partition(".")[0] == "flwr" else contextlib.nullcontext():
            if name == installed_internals().clientapp_module:
                slim_flower_cli()
            importlib.import_module(name)
    except Exception as error:  # a task that needs it will say so itself
        log.debug("warm=skipped module=%s error=%r", name, error)


def thread_count() -> int:
    """Return how many threads Linux sees in this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def quiet_threads() -> None:
    """End OpenBLAS's pool, as its own fork handler would; a task starts it again with its first product."""
    if thread_count() == 1:
        return
    for path in _loaded_libraries("openblas"):
        library = ctypes.CDLL(path)
        if hasattr(library, "blas_thread_shutdown_"):
            library.blas_thread_shutdown_()


def _loaded_libraries(part: str) -> list[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count(" ") and len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if part in Path(path).name)


@contextlib.contextmanager
def loading_quietly() -> Iterator[None]:
    """Keep Arrow's allocator from starting its background thread, which a fork would lose anyway."""
    name = "JE_ARROW_MALLOC_CONF"
    if name in os.environ:
        yield
        return
    os.environ[name] = "background_thread:false"
    try:
        yield
    finally:
        del os.environ[name]


def slim_flower_cli() -> bool:
    """Load Flower's command line without SuperNode's half (SQLAlchemy, Alembic): 30 MB that no ClientApp uses.

    Only while the package's ``__init__`` is what it is known to be: two imports. Code that asks it for SuperNode's half
    later gets it then. Returns whether it was done.
    """
    flower = installed_internals()
    cli = flower.cli_module
    if cli in sys.modules:
        return False
    spec = importlib.util.find_spec(cli)
    if (
        spec is None
        or spec.origin is None
        or not _says_only(Path(spec.origin).read_text(encoding="utf-8"), flower.cli_source)
    ):
        log.info("warm=plain module=%s reason=not-recognised", cli)
        return False
    package = importlib.util.module_from_spec(spec)
    sys.modules[cli] = package
    try:
        program = importlib.import_module(flower.clientapp_module)
    except Exception:
        del sys.modules[cli]
        raise

    def later(name: str) -> Callable[[], None]:
        if name != "flower_supernode":
            raise AttributeError(f"module {cli!r} has no attribute {name!r}")
        function: Callable[[], None] = importlib.import_module(f"{cli}.flower_supernode").flower_supernode
        package.__dict__[name] = function
        return function

    package.__dict__.update(
        flwr_clientapp=program.flwr_clientapp, __getattr__=later, __all__=["flower_supernode", "flwr_clientapp"]
    )
    parent, _, name = cli.rpartition(".")
    importlib.import_module(parent).__dict__[name] = package
    return True


def _says_only(source: str, known: str) -> bool:
    """Return whether a module's source is nothing but a known one, docstrings left out."""
    found = ast.parse(source)
    if ast.get_docstring(found) is not None:
        found.body.pop(0)
    return ast.dump(found) == ast.dump(ast.parse(known))


FORBIDDEN_PACKAGES = frozenset({"fleven", "fleven_agent", "__main__", "__mp_main__"})


@functools.cache
def installed_folders() -> tuple[str, ...]:
    """Return the folders of Python's own and of installed modules, each ending with a slash."""
    paths = sysconfig.get_paths()
    return tuple({os.path.realpath(paths[key]) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_shareable(name: str, module: ModuleType | None, installed: tuple[str, ...]) -> bool:
    """Return whether the warm process may import ``name``: built in or installed beside Python, and not of an app."""
    if name.partition(".")[0] in FORBIDDEN_PACKAGES or module is None:
        return False
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.name != name:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    places = [spec.origin] if spec.origin is not None else list(spec.submodule_search_locations or [])
    return bool(places) and all(os.path.realpath(place).startswith(installed) for place in places)


def shareable_modules(names: Iterable[str]) -> list[str]:
    """Return those of the loaded modules ``names`` that another task may find loaded."""
    installed = installed_folders()
    return [name for name in names if is_shareable(name, sys.modules.get(name), installed)]


def imported_since(loaded: frozenset[str]) -> list[str]:
    """Return the names of modules that came after those ``loaded``.

    Only these are touched. A task would copy megabytes of what it shares with the warm process by no more than a list
    of all modules: Python counts the references to each name, in the memory beside it.
    """
    found: list[str] = []
    with contextlib.suppress(RuntimeError):  # a thread that is left imports something just now
        for name in reversed(sys.modules):
            if name in loaded:
                break
            found.append(name)
    return found[::-1]


def app_modules(names: Iterable[str]) -> list[str]:
    """Return those of the loaded modules ``names`` that belong to an app: ``fleven``, or a file under FLWR_HOME."""
    home = os.path.abspath(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")  # noqa: PTH100 - links stay as they are
    folders = (home + os.sep, os.path.realpath(home) + os.sep)
    found = []
    for name in names:
        origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
        if name.partition(".")[0] == "fleven" or (origin is not None and origin.startswith(folders)):
            found.append(name)
    return found
