"""Schedules: what they say, when they fire, where they are kept. Knows nothing about nodes."""
