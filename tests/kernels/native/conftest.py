import contextlib
import os

import pytest

with contextlib.suppress(ImportError):  # without llvmlite every file of this folder is skipped
    from tests.support.native import nothing_compiled  # noqa: F401 (a fixture)


@pytest.fixture(scope="package", autouse=True)
def _a_cache_of_its_own(tmp_path_factory):
    """Compile into a folder of the tests, not into the user's, unless there is one for the tests already."""
    with pytest.MonkeyPatch.context() as patch:
        if "XPRNN_CACHE_DIR" not in os.environ:
            patch.setenv("XPRNN_CACHE_DIR", str(tmp_path_factory.mktemp("code")))
        yield
