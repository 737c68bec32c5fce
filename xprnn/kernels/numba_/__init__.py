"""The scan in machine code, on NumPy arrays, by numba."""
