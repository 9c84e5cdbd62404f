"""The same calls against a server (`basemlx serve`), whose address is the argument."""

import sys

from basemlx.engine.errors import BaseMLXError
from basemlx.provider import connect

backend = connect(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:11435/v1")
print([model["id"] for model in backend.models()["data"]])

body = {"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 40}
print(backend.tokenize(body)["count"], "tokens in the prompt")
for chunk in backend.chat_stream(body):
    for choice in chunk["choices"]:
        print(choice["delta"].get("content") or "", end="", flush=True)
print()

try:
    backend.chat(body | {"temperature": 9})
except BaseMLXError as error:  # the same class and message as in this process
    print(type(error).__name__, error.status, error.message)
