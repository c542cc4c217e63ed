"""`verify bench` as a person runs it."""

import pytest
from playing import Bench


@pytest.fixture(scope="session")
def bench():
    return Bench()
