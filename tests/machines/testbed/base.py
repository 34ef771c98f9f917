"""Builds the root file system that all machines of a kind share, and keeps it for the next run.

Imports nothing of fleven.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .shell import BedError, missing_programs, run

# What a fresh Debian with systemd has, and the packages that fleven's depend on, so that installing needs no network.
# libfaketime moves the clock of single services; curl stands for a browser; nftables closes single ports.
PACKAGES = (
    "systemd", "systemd-sysv", "systemd-timesyncd", "dbus", "libnss-systemd", "init-system-helpers", "iproute2",
    "iputils-ping", "procps", "python3", "ca-certificates", "libstdc++6", "libgcc-s1", "passwd", "kmod", "libfaketime",
    "curl", "bash-completion", "man-db", "nftables",
)  # fmt: skip
MASKED_UNITS = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service")
# Under qemu-user the credentials step of these units fails.
UNITS_WITHOUT_CREDENTIALS = (
    "systemd-sysusers", "systemd-tmpfiles-setup", "systemd-tmpfiles-setup-dev", "systemd-journald",
)  # fmt: skip


def cache_folder() -> Path:
    """Where bases are kept between runs: outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fleven" / "machines"


def host_architecture() -> str:
    return run("dpkg", "--print-architecture").strip()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def allow_foreign_programs(architecture: str) -> None:
    """Let the kernel run another architecture's programs by qemu-user.

    Raises:
        BedError: qemu-user-static or arch-test is missing, or the kernel refuses.
    """
    if missing := missing_programs("arch-test", "qemu-aarch64-static"):
        raise BedError(f"missing programs: {', '.join(missing)} (run tests/machines/setup all, as root)")
    if subprocess.run(["arch-test", architecture], capture_output=True, check=False).returncode == 0:
        return
    register = Path("/proc/sys/fs/binfmt_misc/register")
    if not register.exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", str(register.parent))
    name = {"arm64": "aarch64", "amd64": "x86_64"}[architecture]
    register.write_text(Path(f"/usr/lib/binfmt.d/qemu-{name}.conf").read_text())
    run("arch-test", architecture)


def base(suite: str, architecture: str) -> Path:
    """Return the folder of the base, built at the first call (half a minute; some minutes for a foreign architecture).

    Raises:
        BedError: it cannot be built here.
    """
    foreign = architecture != host_architecture()
    key = hashlib.sha256(repr((3, PACKAGES, MASKED_UNITS)).encode()).hexdigest()[:10]
    folder = cache_folder() / f"base-{suite}-{architecture}-{key}"
    with _locked(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        if foreign:
            allow_foreign_programs(architecture)
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        hooks = ['rm -f "$1/etc/hostname"; : >"$1/etc/machine-id"']
        hooks += [f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"' for unit in MASKED_UNITS]
        mirror = run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").split("\n")[0]
        if not mirror:
            raise BedError("no package mirror is known here (apt-get update)")
        run(
            "mmdebstrap", "--quiet", "--format=directory", "--variant=minbase", f"--architectures={architecture}",
            f"--include={','.join(PACKAGES)}", "--skip=check/empty",
            *(f"--customize-hook={hook}" for hook in hooks), suite, str(new), mirror,
            timeout_seconds=1200,
        )  # fmt: skip
        if foreign:
            for unit in UNITS_WITHOUT_CREDENTIALS:
                drop_in = new / f"etc/systemd/system/{unit}.service.d/no-credentials.conf"
                drop_in.parent.mkdir(parents=True)
                drop_in.write_text("[Service]\nLoadCredential=\nSetCredential=\nImportCredential=\n")
        new.rename(folder)
    return folder
