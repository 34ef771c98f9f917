"""What is so on this machine, and what it means for training."""
