"""Whom the fleet believes: the server's own certificate authority, its certificate, and when either is made anew.

`files.authority` is what the rest of the server asks: the bundle that cars are given, and its fingerprint.
"""
