"""What the server knows about Flower: its commands, its answers, its SuperLink."""
