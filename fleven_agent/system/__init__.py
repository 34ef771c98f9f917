"""Linux and systemd as the agent sees them."""
