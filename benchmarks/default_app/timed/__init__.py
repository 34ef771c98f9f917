"""The shipped app with the end of each round written down; round_overhead.py lays it beside fleven/app."""
