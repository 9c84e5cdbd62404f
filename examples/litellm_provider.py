"""LiteLLM: `basemlx/…` runs in this process, or with an address as the argument at that server."""

import sys

import litellm

import basemlx

basemlx.register()  # as `import basemlx.provider.litellm` does

where = {"api_base": sys.argv[1]} if len(sys.argv) > 1 else {}
messages = [{"role": "user", "content": "Say hello."}]

answer = litellm.completion(
    model="basemlx/tiny", messages=messages, max_tokens=40, min_p=0.05, seed=1, **where
)
print(answer.choices[0].message.content)
print(answer.usage.completion_tokens, "tokens, cost", answer._hidden_params["response_cost"])

for chunk in litellm.completion(model="basemlx/tiny", messages=messages, max_tokens=40, stream=True, **where):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

try:
    litellm.completion(model="basemlx/tiny", messages=messages, max_tokens=10**6, **where)
except litellm.ContextWindowExceededError as error:
    print(type(error).__name__)
