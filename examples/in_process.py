"""A model in this process, without any server: whole answers, streams, and an event loop."""

import asyncio

from basemlx.provider import connect

backend = connect()
body = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 40,
}

response = backend.chat(body)
print(response["choices"][0]["message"]["content"])
print(response["usage"]["completion_tokens"], "tokens")

with backend.chat_stream(body) as stream:  # leaving it early gives the request up
    for chunk in stream:
        for choice in chunk["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
print()


async def main() -> None:
    answers = await asyncio.gather(*(backend.achat(body | {"seed": seed}) for seed in range(3)))
    for answer in answers:
        print(answer["choices"][0]["message"]["content"])


asyncio.run(main())
