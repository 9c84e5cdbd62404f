"""Embeddings: which text is nearest to a question. Arguments: an embedding model (a name, or in this process a folder),
and the address of a server; without an address the model runs in this process.

    basemlx pull qwen3-embedding-0.6b
    python examples/embeddings.py qwen3-embedding-0.6b [http://127.0.0.1:11435/v1]
"""

import sys

from basemlx.provider import connect

model = sys.argv[1] if len(sys.argv) > 1 else "qwen3-embedding-0.6b"
backend = connect(sys.argv[2] if len(sys.argv) > 2 else None)

question = "What do foxes eat?"
texts = ["A fox lives on mice and berries.", "The weather in Tokyo is mild.", "Arrays are stored by rows."]
answer = backend.embeddings({"model": model, "input": [question, *texts]})
asked, *vectors = [entry["embedding"] for entry in answer["data"]]

# The vectors have length 1, so their product is the cosine of the angle between them.
likeness = [sum(a * b for a, b in zip(asked, vector, strict=True)) for vector in vectors]
for score, text in sorted(zip(likeness, texts, strict=True), reverse=True):
    print(f"{score:.3f}  {text}")
print(len(asked), "dimensions,", answer["usage"]["prompt_tokens"], "tokens")
