"""The optimiser: torch's Adam to the last bit, without torch's compiler."""

import pytest
import torch
from torch import nn

from fleven.app.model import Adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_the_same_steps_as_torchs_own(weight_decay: float) -> None:
    networks = []
    for own in (True, False):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        unused = nn.Parameter(torch.ones(2))  # never gets a gradient
        parameters = [*network.parameters(), unused]
        optimiser: Adam | torch.optim.Adam
        if own:
            optimiser = Adam(parameters, learning_rate=0.01, weight_decay=weight_decay)
        else:
            optimiser = torch.optim.Adam(parameters, lr=0.01, weight_decay=weight_decay, foreach=True)
        for _ in range(20):
            optimiser.zero_grad()
            network(torch.randn(8, 3)).square().mean().backward()
            optimiser.step()
        networks.append([parameter.detach().clone() for parameter in parameters])
    for ours, theirs in zip(*networks, strict=True):
        assert torch.equal(ours, theirs)
