"""What a task imports is what a warm process has to hold."""

import subprocess
import sys

STEPS = """
import sys
import torch
from fleven.app.model import Adam
weight = torch.nn.Parameter(torch.ones(4))
optimiser = Adam([weight], learning_rate=0.1, weight_decay=0.0)
weight.square().sum().backward()
optimiser.step()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules], weight[0].item())
"""


def test_a_step_does_not_import_torchs_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("[] 0.9")


FINALIZERS = """
import weakref
from fleven_agent.warm.preload import leave_finalizers
class Thing: pass
inherited = Thing()
weakref.finalize(inherited, print, "of the warm process")
leave_finalizers()
own = Thing()
weakref.finalize(own, print, "of the task")
"""


def test_a_task_ends_what_is_its_own_and_nothing_of_the_warm_process() -> None:
    run = subprocess.run([sys.executable, "-c", FINALIZERS], capture_output=True, text=True, check=True)
    assert run.stdout == "of the task\n"
