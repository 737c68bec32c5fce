"""Kernels: faster scans under one contract, how they are chosen, and `explain`, which says so.

A kernel is a pair with the signatures of `xprnn.scan.scan` and `scan_backward`. It says what it takes, and is tested
equal to the reference in states, final state and every gradient.
"""

from xprnn.kernels.explain import Explanation, explain
from xprnn.kernels.registry import REFERENCE, TWINS, Kernel
from xprnn.kernels.select import NAMES, check_name, select, select_products
from xprnn.kernels.threads import get_num_threads, set_num_threads

__all__ = [
    "NAMES",
    "REFERENCE",
    "TWINS",
    "Explanation",
    "Kernel",
    "check_name",
    "explain",
    "get_num_threads",
    "select",
    "select_products",
    "set_num_threads",
]
