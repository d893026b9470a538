"""A results folder and a cache of its own for every file of tests."""

import pytest

pytest.register_assert_rewrite("smoke")


def pytest_generate_tests(metafunc):
    """A test that is a method and wants a ``source`` runs for each of its class's ``SOURCES``."""
    if metafunc.cls is not None and "source" in metafunc.fixturenames:
        metafunc.parametrize("source", metafunc.cls.SOURCES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
