"""Schedules: what they say, when they fire, where they are kept. Knows nothing of nodes."""
