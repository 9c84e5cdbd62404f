"""Where the engine is: what the classes here have in common."""

from typing import Any

from pydantic import BaseModel, Field, SecretStr

from basemlx.engine.environment import Environment
from basemlx.provider.backend import Backend
from basemlx.provider.connect import connect


class EnginePlace(BaseModel):
    """`base_url` (or BASEMLX_API_BASE) is a server's address; without one the engine runs here. `backend` is one to use
    instead, for an engine with settings of one's own. `api_key` is for the server; without one, BASEMLX_API_KEY goes to
    that of BASEMLX_API_BASE and to this machine's own. `timeout` is in seconds, for one request. `max_retries`: how
    often what may pass (a full queue, a server that is away) is asked again.
    """

    base_url: str | None = Field(default_factory=lambda: Environment.read().api_base)
    api_key: SecretStr | None = None
    timeout: float | None = None
    max_retries: int = Field(default=0, ge=0)
    backend: Any = Field(default=None, exclude=True, repr=False)

    def _backend(self) -> Backend:
        if self.backend is not None:
            given: Backend = self.backend
            return given
        key = None if self.api_key is None else self.api_key.get_secret_value()
        return connect(self.base_url, api_key=key)
