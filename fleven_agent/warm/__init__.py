"""Rounds that cost little more than the learning: a process that has imported all they need, and shorter waits.

The agent talks to ``manager`` alone. Nothing in this package imports ``fleven``; only the warm process itself and the
wrappers around Flower's programs import Flower, and they do so in processes of their own.
"""
