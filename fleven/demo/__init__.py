"""A federation of three cars on one machine, run as real processes."""
