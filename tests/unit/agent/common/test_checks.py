"""A check that the operator's machine refuses is the operator's matter; only what we did not foresee is a defect."""

import errno

import pytest

from fleven_agent.common.checks import Check, Result, Status, run_checks
from fleven_agent.common.errors import describe


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), Status.SKIPPED, "this user may not read /x/y"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
            Status.ERROR,
            "/x: no such file or directory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), Status.ERROR, "no space left on device"),
    ],
)
def test_what_the_system_refuses_is_no_defect(raised: OSError, status: Status, message: str) -> None:
    def run(_context: None) -> Result:
        raise raised

    [(_, result)] = run_checks([Check("a.b", "a check", run)], None, hint_for_a_defect="DEFECT")
    assert (result.status, result.message) == (status, message)
    assert "DEFECT" not in result.hint


def test_what_nobody_foresaw_is_a_defect() -> None:
    def run(_context: None) -> Result:
        raise KeyError("x")

    [(_, result)] = run_checks([Check("a.b", "a check", run)], None, hint_for_a_defect="DEFECT")
    assert (result.status, result.hint) == (Status.ERROR, "DEFECT")


def test_an_error_without_a_file_is_described_too() -> None:
    assert describe(OSError("odd")) == "odd"
