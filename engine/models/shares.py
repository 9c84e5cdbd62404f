"""What of the memory each loaded model may use beside its weights: KV rows of running sequences, computed prefixes.

Shares are divided anew whenever a model comes or goes, and given back where they can be computed again. For the engine
thread.
"""

from collections.abc import Sequence

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.memory import available_memory_bytes
from basemlx.engine.runtime import mx

KV_SHARE = 0.5
"""Of the memory that all models' weights leave, what KV rows may take by default, in equal parts."""

PREFIX_SHARE = 0.1
PREFIX_CONTEXTS = 2
"""A prefix cache holds two full contexts by default; all of them together, a tenth of what models may take."""


def divide_memory(
    workers: Sequence[ModelWorker], embedder_bytes: int, config: EngineConfig, max_memory_bytes: int
) -> None:
    """Sets each worker's budgets. `embedder_bytes`: the weights of models beside these that only embed."""
    if not workers:
        return
    weights = sum(worker.loaded.weights_bytes for worker in workers) + embedder_bytes
    held = sum(worker.kv_bytes + worker.prefix_cache.nbytes for worker in workers)
    spare = max(0, min(max_memory_bytes - weights, available_memory_bytes() + held))
    for worker in workers:
        kv_budget = config.kv_budget_bytes
        if kv_budget is None:
            kv_budget = int(KV_SHARE * spare / len(workers))
        prefix_budget = config.prefix_cache_bytes
        if prefix_budget is None:
            contexts = PREFIX_CONTEXTS * worker.row_bytes(worker.loaded.context_tokens)
            share = PREFIX_SHARE * min(max_memory_bytes, 2 * spare) / len(workers)
            prefix_budget = min(contexts, int(share))
        worker.set_budgets(kv_budget, prefix_budget)


def give_back(workers: Sequence[ModelWorker]) -> None:
    """Frees what can be computed again."""
    for worker in workers:
        worker.prefix_cache.clear()
    mx.clear_cache()
