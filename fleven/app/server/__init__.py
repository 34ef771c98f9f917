"""The ServerApp's side of a run: rounds, fleet, strategy, results. Never imported by a car."""
