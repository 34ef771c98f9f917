"""Adam by torch's own arithmetic, without the class around it.

The first `step` of any `torch.optim.Optimizer` imports torch's compiler and, with it, SymPy: 70 MB of memory and
seconds of a car's CPU for every task, to find out that nothing is compiled. The function below it does the same steps,
to the last bit, and needs none of that.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam:
    """Adam with `torch.optim.Adam`'s defaults: betas 0.9 and 0.999, epsilon 1e-8, weight decay added to gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros(()) for _ in self._parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; parameters without a gradient stay."""
        moved = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]

        def of(tensors: list[Tensor]) -> list[Tensor]:
            return [tensors[index] for index in moved]

        adam(
            of([*self._parameters]),
            [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None],
            of(self._means),
            of(self._squares),
            [],
            of(self._steps),
            foreach=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
