"""A card that turns read-only while the agent works: the state folder is mounted anew, as the kernel does it."""

import os
import subprocess
from collections.abc import Callable

import pytest
from agent_harness import Agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")


def test_a_card_that_turns_read_only_is_a_condition_until_it_can_be_written(make_agent: Callable[..., Agent]) -> None:
    agent = make_agent()
    agent.state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "card", agent.state], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    try:
        agent.start()
        agent.wait_state("running")
        subprocess.run(["mount", "-o", "remount,ro", agent.state], check=True)
        status = agent.wait_condition("state-unwritable", 15)
        [condition] = [one for one in status["conditions"] if one["code"] == "state-unwritable"]
        assert condition["severity"] == "error"
        assert status["state"] == "running"
        subprocess.run(["mount", "-o", "remount,rw", agent.state], check=True)
        agent.wait_condition("state-unwritable", 15, gone=True)
        agent.stop()
    finally:
        agent.clean_up()
        subprocess.run(["umount", "-l", agent.state], check=False)
