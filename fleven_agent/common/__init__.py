"""What agent and server share. Standard library only."""
