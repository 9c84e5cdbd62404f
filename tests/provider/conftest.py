import os

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would download its table of prices

from basemlx.provider.backend import Backend
from tests.transports import api_base, http, live, local, vectors

__all__ = ["api_base", "http", "live", "local", "vectors"]


@pytest.fixture(scope="module", params=["local", "http"])
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="module")
def both(local: Backend, http: Backend) -> tuple[Backend, Backend]:
    return local, http
