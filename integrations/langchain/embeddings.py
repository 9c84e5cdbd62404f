"""BaseMLXEmbeddings: LangChain's embeddings over a Backend."""

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict

from basemlx.engine.errors import InvalidRequest
from basemlx.integrations.langchain.place import EnginePlace
from basemlx.integrations.langchain.retry import aretried, retried

MAX_INPUTS = 512
"""In one request."""


class BaseMLXEmbeddings(EnginePlace, Embeddings):
    """`query_prompt_name` and `document_prompt_name` are prompts of the model (as in its sentence-transformers files)
    that are put before what is embedded. EnginePlace says where the model runs."""

    model: str
    dimensions: int | None = None
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=(), extra="forbid")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        parts = [self._ask(body) for body in self._bodies(texts, self.document_prompt_name)]
        return [vector for part in parts for vector in _vectors(part)]

    def embed_query(self, text: str) -> list[float]:
        [body] = self._bodies([text], self.query_prompt_name)
        return _vectors(self._ask(body))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        parts = [await self._aask(body) for body in self._bodies(texts, self.document_prompt_name)]
        return [vector for part in parts for vector in _vectors(part)]

    async def aembed_query(self, text: str) -> list[float]:
        [body] = self._bodies([text], self.query_prompt_name)
        return _vectors(await self._aask(body))[0]

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        return retried(lambda: self._backend().embeddings(body), self.max_retries)

    async def _aask(self, body: dict[str, Any]) -> dict[str, Any]:
        return await aretried(lambda: self._backend().aembeddings(body), self.max_retries)

    def _bodies(self, texts: Sequence[str], prompt_name: str | None) -> Iterator[dict[str, Any]]:
        if isinstance(texts, str):
            raise InvalidRequest(
                "embed_documents takes a list of texts; for one text there is embed_query.", param="input"
            )
        settings = {"dimensions": self.dimensions, "prompt_name": prompt_name, "timeout": self.timeout}
        given = {name: value for name, value in settings.items() if value is not None}
        for start in range(0, len(texts), MAX_INPUTS):
            yield {"model": self.model, "input": list(texts[start : start + MAX_INPUTS]), **given}


def _vectors(response: dict[str, Any]) -> list[list[float]]:
    ordered = sorted(response["data"], key=lambda entry: entry["index"])
    return [entry["embedding"] for entry in ordered]
