"""What a task's program is started with."""

from fleven_agent.common.cell.program import without_parent


def test_the_parents_process_id_is_left_out() -> None:
    assert without_parent(["--insecure", "--parent-pid", "7", "--token", "x"]) == ["--insecure", "--token", "x"]
    assert without_parent(["--insecure"]) == ["--insecure"]
