"""What the agent's unit tests share."""

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests the wait for a real disk; power cuts are simulated by cutting files."""
    monkeypatch.setattr("fleven_agent.state.os.fsync", lambda _descriptor: None)
