"""Backups of the whole server, keys and enrolments among them, and how another machine takes them up.

`contents` says what may be in one, `container` and `sealing` how it is written, `making` and `restoring` do it.
"""
