"""LangChain over basemlx: an engine in this process, or with `base_url` a server. Needs `pip install
'basemlx[langchain]'`.

    ChatBaseMLX(model="tiny").invoke("Hello")
    BaseMLXEmbeddings(model="qwen3-embedding-0.6b", base_url="http://127.0.0.1:11435/v1").embed_query("Hello")
"""

from basemlx.integrations.langchain.chat import ChatBaseMLX
from basemlx.integrations.langchain.embeddings import BaseMLXEmbeddings

__all__ = ["BaseMLXEmbeddings", "ChatBaseMLX"]
