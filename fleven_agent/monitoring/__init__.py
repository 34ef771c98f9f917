"""What the agent observes on this machine, and what it means for training."""
