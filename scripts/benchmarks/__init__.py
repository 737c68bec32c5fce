"""What `scripts/bench.py` runs, and measurements with a command of their own."""
