"""How Python callers reach an engine, in this process or over HTTP, in OpenAI's dicts. It uses the engine and knows
nothing of the server.

    connect(api_base=None)   a Backend: the engine of this process, or the server under that address
"""

from basemlx.provider.backend import Backend, ChunkStream
from basemlx.provider.connect import connect

__all__ = ["Backend", "ChunkStream", "connect"]
