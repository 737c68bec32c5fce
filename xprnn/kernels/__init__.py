"""Kernels: faster scans under one contract, their selection, and `explain`.

A kernel is a pair with the signatures of `xprnn.scan.scan` and `scan_backward`. It declares what it can run, and is
tested equal to the reference in states, final state and every gradient.
"""

from xprnn._array.pool import get_memory_limit, set_memory_limit
from xprnn.kernels.explain import Explanation, explain
from xprnn.kernels.registry import KERNELS, REFERENCE, Kernel
from xprnn.kernels.select import NAMES, check_name, select, select_affine, select_products, select_words
from xprnn.kernels.threads import get_num_threads, set_num_threads

__all__ = [
    "KERNELS",
    "NAMES",
    "REFERENCE",
    "Explanation",
    "Kernel",
    "check_name",
    "explain",
    "get_memory_limit",
    "get_num_threads",
    "select",
    "select_affine",
    "select_products",
    "select_words",
    "set_memory_limit",
    "set_num_threads",
]
