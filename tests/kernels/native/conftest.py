import pytest


@pytest.fixture(scope="package", autouse=True)
def _a_cache_of_its_own(tmp_path_factory):
    """Compile into a folder of the tests, not into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XPRNN_CACHE_DIR", str(tmp_path_factory.mktemp("code")))
        yield
