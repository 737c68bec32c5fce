"""The scan in place, on NumPy arrays."""
