from tests.transports import api_base, http, live, local, vectors

__all__ = ["api_base", "http", "live", "local", "vectors"]
