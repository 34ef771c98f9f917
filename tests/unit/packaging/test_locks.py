"""The locks hold what pyproject.toml asks for, and only what can run on the target."""

import re
import tomllib
from pathlib import Path

import pytest

from packaging.requirements import Requirement

LOCKS = sorted((Path(__file__).resolve().parents[3] / "packaging/requirements").glob("*-*-*.txt"))


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_there_is_a_lock_for_each_package_and_target_that_can_be_built() -> None:
    assert [path.stem for path in LOCKS] == sorted(
        f"{role}-{target}"
        for role in ("node", "server")
        for target in ("bookworm-amd64", "bookworm-arm64", "trixie-arm64")
    )


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_satisfies_pyproject(path: Path, project: Path) -> None:
    role = path.stem.split("-")[0]
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in declared["dependencies"] + declared["optional-dependencies"][role]]
    versions = locked(path)
    for requirement in wanted:
        found = versions.get(requirement.name.lower(), "none")
        assert found != "none", f"{requirement.name} is not locked (run packaging/lock.py)"
        assert requirement.specifier.contains(found), f"{requirement} but {found} is locked (run packaging/lock.py)"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_entry_is_hashed_and_none_is_a_cuda_library(path: Path) -> None:
    text = path.read_text()
    for entry in re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert not [name for name in locked(path) if re.match(r"nvidia|triton|cuda", name)]


@pytest.mark.parametrize("path", [path for path in LOCKS if "arm64" in path.stem], ids=lambda path: path.stem)
def test_arm64_keeps_the_torch_that_runs_on_a_raspberry_pi_3(path: Path) -> None:
    assert locked(path)["torch"] == "2.9.1"


def test_all_targets_hold_the_same_versions_but_for_torch() -> None:
    for role in ("node", "server"):
        sets = [{k: v for k, v in locked(path).items() if k != "torch"} for path in LOCKS if path.stem.startswith(role)]
        assert sets[0] == sets[1] == sets[2]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_the_reason_for_every_distribution_is_written_beside_the_lock(path: Path, project: Path) -> None:
    explained = (project / "packaging/requirements/README.md").read_text()
    cells = {
        name.strip() for row in re.findall(r"^\| ([a-z0-9, -]+) \|", explained, re.MULTILINE) for name in row.split(",")
    }
    assert set(locked(path)) - cells == set()
