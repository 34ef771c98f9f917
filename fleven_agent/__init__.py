"""fleven-agent: keeps a car in the federation. Imports nothing of ``fleven`` and none of its heavy libraries."""

__version__ = "0.2.0"
