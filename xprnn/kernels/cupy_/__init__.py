"""The scan in CUDA C++, on CuPy arrays."""
