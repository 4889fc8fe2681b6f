"""Settings of the C library's memory."""

import ctypes
import platform
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGEST = 32 * 1024 * 1024  # the greatest that glibc accepts for M_MMAP_THRESHOLD


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks, which every step allocates again. The kernel would clear and map each anew.

    All threads share one arena, because glibc always returns the blocks of the others. Other C libraries keep their
    settings.
    """
    if platform.libc_ver()[0] == "glibc":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            for setting in ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, 16 * LARGEST), (M_ARENA_MAX, 1)):
                mallopt(*setting)
