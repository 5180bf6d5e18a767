import pytest

from infomcr_tf import data


@pytest.fixture(scope="session")
def digits():
    return data.load_dataset("digits")
