"""What SuperNode, its executor and ClientApps of the real Flower import on a car."""

import json
import subprocess
import sys

import pytest

CODE = """
import importlib, json, sys
from fleven_agent.warm.flower_internals import installed_internals
from fleven_agent.warm.stand_ins import standing_in
with standing_in():
    for name in {modules}: importlib.import_module(name)
unused = ("alembic", "fastapi", "httpx", "pydantic", "sqlalchemy")
loaded = [name for name in unused if name in sys.modules]
from flwr.supercore import heartbeat
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.object_store import ObjectStoreFactory
store = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME).store()
still = [name for name in unused if name in sys.modules]
on_disk = ObjectStoreFactory({file!r}).store()
print(json.dumps([loaded, still, type(store).__name__, type(on_disk).__name__, str(heartbeat.httpx.TransportError)]))
"""


@pytest.mark.parametrize(
    "modules",
    [
        ["flwr.supercore.superexec.run_superexec", "flwr.supernode.start_client_internal"],
        ["flwr.clientapp", "flwr.supernode.start_client_internal"],
    ],
)
def test_nothing_of_a_database_or_a_web_server_is_loaded_until_it_is_used(
    modules: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = str(tmp_path_factory.mktemp("store") / "objects.db")
    code = CODE.format(modules=modules, file=file)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    loaded, still, store, on_disk, error = json.loads(answer.stdout)
    assert (loaded, still, store) == ([], [], "InMemoryObjectStore")
    assert on_disk == "SqlObjectStore"
    assert error == "<class 'httpx.TransportError'>"
