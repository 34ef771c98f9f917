"""A card that turns read-only while the agent works: the kernel remounts the file system of the state folder."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_harness import Agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")


def test_a_card_that_turns_read_only_is_a_condition_and_no_end(
    make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent, image = make_agent(), tmp_path / "card.img"
    agent.state.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    mount = ["mount", "-o", "loop,errors=remount-ro", image, agent.state]
    for command in (["mkfs.ext4", "-q", image], mount):
        done = subprocess.run(command, capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot make a card: {done.stderr.decode()}")
    try:
        agent.start()
        agent.wait_state("running")
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", agent.state], capture_output=True, text=True, check=True
        ).stdout.strip()
        # As the kernel does it when the card gives an error.
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1", encoding="ascii")
        status = agent.wait_condition("state-unwritable", 15)
        [condition] = [one for one in status["conditions"] if one["code"] == "state-unwritable"]
        assert condition["severity"] == "error"
        assert "read-only" in condition["message"].lower()
        assert status["state"] == "running"
    finally:
        agent.clean_up()
        subprocess.run(["umount", "-l", agent.state], check=False)
