"""Asks a running server on behalf of another command. The key is that of BASEMLX_API_KEY; a proxy is never asked."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from basemlx.engine.environment import API_KEY_VARIABLE, Environment
from basemlx.engine.errors import BaseMLXError
from basemlx.server.commands.terminal import printable

MAX_ANSWER_BYTES = 4 << 20
LOAD_TIMEOUT_S = 660.0
_NO_SUCH_PATH = (404, 405, 501)


class NoServer(BaseMLXError):
    """Nothing that speaks as basemlx does listens there."""

    default_code = "no_server"


class Refused(BaseMLXError):
    """The server's own error, in its words; or it did not answer in time."""

    default_code = "refused"


class ServerClient:
    """One server's models."""

    def __init__(self, host: str, port: int) -> None:
        address = f"[{host}]" if ":" in host else host
        self.url = f"http://{address}:{port}"

    def models(self, *, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """The entries of /v1/models. Raises NoServer or Refused."""
        data = self._ask("/v1/models", None, timeout_s).get("data")
        if not isinstance(data, list) or not all(isinstance(item, dict) and "id" in item for item in data):
            raise self._no_server()
        return data

    def load(self, name: str, *, pin: bool, idle_ttl_s: float | None) -> dict[str, Any]:
        body: dict[str, Any] = {"pin": pin} | ({} if idle_ttl_s is None else {"idle_ttl_s": idle_ttl_s})
        return self._ask(f"/v1/models/{quote(name)}/load", body, LOAD_TIMEOUT_S)

    def unload(self, name: str) -> dict[str, Any]:
        return self._ask(f"/v1/models/{quote(name)}/unload", {}, LOAD_TIMEOUT_S)

    def _ask(self, path: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode("ascii")
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        api_key = Environment.read().api_key
        if api_key is not None:
            request.add_header("x-api-key", api_key)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                content = json.loads(answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                words = self._words(error)
            if words is None and error.code in _NO_SUCH_PATH:
                raise self._no_server() from None  # a server, but none of ours
            raise Refused(words or f"{self.url} answered {error.code}.") from None
        except TimeoutError:
            raise Refused(f"The server at {self.url} did not answer within {timeout_s:g} s.") from None
        except (OSError, http.client.HTTPException, ValueError):
            raise self._no_server() from None
        if not isinstance(content, dict):
            raise self._no_server()
        return content

    def _words(self, error: urllib.error.HTTPError) -> str | None:
        """The message of our own envelope; None for anything else."""
        try:
            message = str(json.loads(error.read(MAX_ANSWER_BYTES))["error"]["message"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return None
        hint = f" Set {API_KEY_VARIABLE} to it." if error.code == 401 else ""
        return printable(message)[:1000] + hint

    def _no_server(self) -> NoServer:
        return NoServer(
            f"No basemlx server answers at {self.url}. Start one with: basemlx serve (or name it with --host, --port)."
        )
