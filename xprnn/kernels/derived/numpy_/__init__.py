"""The scan on NumPy arrays without a compiler: programs of the traced cell as calls of NumPy's functions."""
