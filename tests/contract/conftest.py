import pytest

from tests.transports import api_base, live

__all__ = ["api_base", "live"]


@pytest.fixture(scope="session")
def base_url(api_base: str) -> str:
    return api_base
