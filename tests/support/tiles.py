"""Layers of any size in several tiles, on several threads."""

from xprnn.kernels import threads
from xprnn.kernels.derived.native.layer import FusedLayer


def in_tiles(monkeypatch, n=3):
    """Cut every batch into so many tiles, forward on as many threads."""
    monkeypatch.setattr(threads, "WORTH", 1)
    monkeypatch.setattr(threads._pool, "n", n)
    monkeypatch.setattr(threads._pool, "threads", None)
    monkeypatch.setattr(FusedLayer, "_tiles", lambda layer, shape: max(1, min(n, shape.B)))
