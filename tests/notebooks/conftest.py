"""A results folder and a cache of its own for every file of tests."""

import pytest


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
