"""How Python callers reach an engine, in this process or over HTTP, in OpenAI's dicts. To come: it will use the
engine and know nothing of the server.
"""
