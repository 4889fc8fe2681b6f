"""Keep freed memory in the process: a step frees and asks for the same blocks again, thousands of times."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGEST = 32 * 1024 * 1024  # the greatest that glibc accepts for M_MMAP_THRESHOLD


def keep_freed_memory() -> bool:
    """Tell glibc not to hand freed blocks back to the kernel, which would clear and map each anew. True if it did.

    One arena for all threads, because the others are always handed back. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, 16 * LARGEST), (M_ARENA_MAX, 1)
    taken = [mallopt(*each) for each in settings]  # all of them, also after one that was refused
    return all(taken)
