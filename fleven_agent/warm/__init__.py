"""Rounds at the speed of the learning: a process that already imported what ClientApps need, and shorter waits.

The agent talks to ``manager`` alone. Nothing in this package imports ``fleven``; only the warm process itself and the
wrappers around Flower's programs import Flower, and they do so in processes of their own.
"""
