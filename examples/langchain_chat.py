"""LangChain: a stream, a tool call that is enforced, a structured answer. With an address as the argument at that
server, else in this process."""

import sys

from langchain_core.tools import tool
from pydantic import BaseModel

from basemlx.integrations.langchain import ChatBaseMLX

model = ChatBaseMLX(
    model="tiny", base_url=sys.argv[1] if len(sys.argv) > 1 else None, temperature=0, max_tokens=100
)

for chunk in model.stream("Say hello."):
    print(chunk.content, end="", flush=True)
print()


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


calls = model.bind_tools([get_weather], tool_choice="any").invoke("What is the weather in Paris?").tool_calls
print([(call["name"], call["args"]) for call in calls])


class Person(BaseModel):
    name: str
    age: int


print(model.with_structured_output(Person).invoke("Ada is 36 years old."))
