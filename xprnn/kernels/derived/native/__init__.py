"""Machine code for NumPy arrays, by llvmlite: what it is emitted for, of and by."""
