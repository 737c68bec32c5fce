"""Machine code: all that numba compiles, and nothing else."""
