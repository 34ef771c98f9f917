"""Errors of one car and of the fleet from sums, so that no reading has to leave a car. Standard library only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Sums over `values` predicted values on held-out windows, in the target's unit.

    target_mean and target_deviation (sum of squared deviations from the mean) describe the true values.
    """

    values: int = 0
    windows: int = 0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    target_mean: float = 0.0
    target_deviation: float = 0.0

    @classmethod
    def of(cls, numbers: Mapping[str, float], model: str = "") -> "Score":
        """Read the sums from a car's answer; raises KeyError when it did not evaluate.

        model: "" for the one that the server sent, "personal-" for the one that the car uses.
        """
        return cls(
            int(numbers["values"]),
            int(numbers["windows-test"]),
            numbers[f"{model}squared-error"],
            numbers[f"{model}absolute-error"],
            numbers["target-mean"],
            numbers["target-deviation"],
        )

    def merge(self, other: "Score") -> "Score":
        """Pool two cars: the result is what one evaluation over both cars' windows would give."""
        values = self.values + other.values
        if not values:
            return self
        apart = other.target_mean - self.target_mean
        return Score(
            values,
            self.windows + other.windows,
            self.squared_error + other.squared_error,
            self.absolute_error + other.absolute_error,
            self.target_mean + apart * other.values / values,
            self.target_deviation + other.target_deviation + apart**2 * self.values * other.values / values,
        )

    @property
    def rmse(self) -> float | None:
        """Root mean squared error; None without values."""
        return math.sqrt(self.squared_error / self.values) if self.values else None

    @property
    def mae(self) -> float | None:
        """Mean absolute error; None without values."""
        return self.absolute_error / self.values if self.values else None

    @property
    def r2(self) -> float | None:
        """Coefficient of determination, 1 - squared error / deviation; None where the truth never changes."""
        return 1 - self.squared_error / self.target_deviation if self.target_deviation > 0 else None

    def row(self) -> dict[str, float | None]:
        """Return rmse, mae and r2 as the tables have them."""
        return {"rmse": self.rmse, "mae": self.mae, "r2": self.r2}
