"""Small machines with a really booted systemd, on one switch, for tests of the Debian packages.

Why it exists: what the packages promise (start at boot, restart, watchdog, limits, upgrade, purge) can only be seen on
a booted system. Each machine is systemd-nspawn over an overlay of one base, in a network namespace of its own.
Needs root on Debian 12 or newer. It must not import anything of fleven: the packages are tested from outside.
"""
