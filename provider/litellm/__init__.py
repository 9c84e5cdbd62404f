"""LiteLLM over basemlx: importing this registers the provider. `litellm.completion(model="basemlx/tiny", …)` then runs
here, or at the server that `api_base` or BASEMLX_API_BASE names.

`register()` may be called again, say after somebody has assigned `litellm.custom_provider_map` anew. For a proxy
see examples/litellm_proxy.yaml. Needs `pip install 'basemlx[litellm]'`.
"""

from basemlx.provider.litellm.handler import BaseMLXLLM
from basemlx.provider.litellm.registration import handler, register

__all__ = ["BaseMLXLLM", "handler", "register"]

register()
