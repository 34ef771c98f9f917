"""What the server knows of Flower: its commands, its answers, its SuperLink."""
