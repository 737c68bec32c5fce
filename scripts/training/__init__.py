"""Tasks and run folders of `scripts/train.py`."""
