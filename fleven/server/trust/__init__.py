"""Whom the fleet believes: the server's own authority, its certificate, and when either is made again.

`files.authority` is what the commands ask: the bundle that cars are given, and its fingerprint.
"""
