"""Print a digest of what the CuPy twins give, for runs in which the driver orders threads or fills memory otherwise.

python -m tests.support.digest
"""

import hashlib
import sys

import numpy as np

from tests.support import optioned
from tests.support.scans import CUPY, KINDS, OPTIONS, draw, draw_around, gradients_of, run, weights
from xprnn import tree

SHAPES = [(6, 5, 13), (3, 1, 6)]


def main():
    """Run every twin and plain cell, and some with options of their own, with all options, plain and with masks."""
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    cells = [*(cell for cell, _ in KINDS.values()), *map(optioned.CELLS.get, optioned.DIGESTED)]
    for cell in cells:
        for shape in SHAPES:
            for on in (OPTIONS, ("mask", "reset"), ()):
                given, around, weight = (
                    draw(cell, rng, *shape),
                    draw_around(cell, rng, on, *shape),
                    weights(cell, rng, *shape),
                )
                for kernel in CUPY:
                    for a in tree.leaves(run(kernel, cell, given, around, weight, gradients_of(on))):
                        assert np.isfinite(a).all(), (cell, shape, on, kernel)
                        digest.update(a.tobytes())
    sys.stdout.write(digest.hexdigest() + "\n")


if __name__ == "__main__":
    main()
