"""A server and its vehicles on one switch, and what a person does with them. Imports nothing of fleven."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from . import base
from .machine import Machine
from .network import Switch
from .shell import run

NETWORK = "100.64.0"  # addresses as in a tailnet; only inside the namespaces


class Bed:
    """Machines that live as long as the `with` block.

    Args:
        prefix: keeps the namespaces of test beds that run at the same time apart.
        suite, architecture: what the machines run.
        keep_journals: folder for all journals, written when the block is left by an exception.
    """

    def __init__(self, prefix: str, suite: str, architecture: str, keep_journals: Path | None = None) -> None:
        self.switch = Switch(prefix, NETWORK)
        self.suite, self.architecture = suite, architecture
        self.keep_journals = keep_journals
        self.machines: dict[str, Machine] = {}
        self.folder = Path()

    def __enter__(self) -> Self:
        self.base = base.base(self.suite, self.architecture)
        # Beside the base, not in /tmp: some hosts keep that in memory.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.switch.prefix}-", dir=base.cache_folder()))
        self.switch.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.keep_journals is not None:
            self.collect(self.keep_journals)
        for machine in self.machines.values():
            with contextlib.suppress(Exception):  # the others must go as well
                machine.remove()
        self.switch.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(
        self,
        name: str,
        *,
        bind: list[Path] | None = None,
        layers: list[Path] | None = None,
        disk_megabytes: int = 0,
    ) -> Machine:
        """Make a machine; it is off."""
        address = f"{NETWORK}.{len(self.machines) + 1}"
        machine = Machine(
            name, address, self.switch, self.folder / name, self.base, layers or [], bind or [], disk_megabytes
        )
        self.machines[name] = machine
        return machine

    def hosts(self) -> str:
        """Content of /etc/hosts: each knows the names of all."""
        names = "".join(f"{machine.address} {machine.name}\n" for machine in self.machines.values())
        return f"127.0.0.1 localhost\n::1 localhost\n{names}"

    def start(self, *machines: Machine) -> None:
        """Power on together."""
        hosts = self.hosts()
        for machine in machines:
            etc = machine.folder / "upper/etc"
            etc.mkdir(exist_ok=True)
            (etc / "hosts").write_text(hosts)
            machine.start(wait=False)
        for machine in machines:
            machine.wait_until_up()

    def snapshot(self, machine: Machine, name: str) -> Path:
        """Keep what a machine (that is off) has on its disk as a layer for others; returns the layer."""
        layer = self.folder / f"layer-{name}"
        run("cp", "-a", "--reflink=auto", str(machine.folder / "upper"), str(layer))
        for path in ("etc/hostname", "etc/hosts", "etc/machine-id", "var/log/journal", "run"):
            target = layer / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        return layer

    def collect(self, folder: Path) -> None:
        """Write every journal and console to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for machine in self.machines.values():
            (folder / f"{machine.name}.journal").write_text(machine.journal())
            (folder / f"{machine.name}.console").write_text(machine.console())
