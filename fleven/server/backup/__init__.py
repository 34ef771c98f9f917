"""Backups of the whole server, keys and enrolments among them, and how they are restored on another machine.

`contents` says what may be in one, `container` and `sealing` how it is written, `making` and `restoring` do it.
"""
