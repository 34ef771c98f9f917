"""Puts a disk that never answers over a folder of a machine, until this program ends.

Usage: hang.py PID FOLDER    PID: a process in the machine's mount namespace
A program of its own, standard library only: a FUSE file system whose requests nobody reads. When it ends, the kernel
answers them with an error, as when a dead disk is pulled.
"""

import ctypes
import os
import signal
import sys

CLONE_NEWNS = 0x00020000  # linux/sched.h


def main() -> None:
    pid, folder = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR)  # of this host: the machine has none
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    if libc.setns(namespace, CLONE_NEWNS):
        sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"hang", folder.encode(), b"fuse", 0, options.encode()):
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    print("hangs", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
