"""Keep freed memory in the process: every step frees the same blocks and allocates them again."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGEST = 32 * 1024 * 1024  # the greatest that glibc accepts for M_MMAP_THRESHOLD


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed blocks to the kernel, which would clear and map each again. True if it did.

    All threads share one arena, because glibc always returns the blocks of the others. Other C libraries keep their
    settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, 16 * LARGEST), (M_ARENA_MAX, 1)
    taken = [mallopt(*each) for each in settings]  # all of them, also after a refusal
    return all(taken)
