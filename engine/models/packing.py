"""Whether packed (quantised) weights are what MLX computes with, from headers and config, before MLX is asked.

A packed matrix is three tensors: `weight` with 32 // bits values a word, one of `scales` for each group of values, and
`biases` beside them in affine mode. mlx-lm works bits and group size out from their shapes and the config's sizes. A
group size of 0 out of that is a division by zero inside MLX, which ends the process and not the load.

    check_settings   config.json's `quantization`, what it says of single layers included
    check_tensors    each packed weight against its scales and biases
    checked_classes  the same against the architecture that was built from config.json, before mlx-lm packs it

The first two import no MLX.
"""

from collections.abc import Callable, Mapping
from typing import Any

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.models.headers import TensorEntry

PACKED_DTYPE = "U32"
_AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)
_AFFINE_GROUPS = (32, 64, 128)
# mode -> (bits, group size), one pair each but for affine
_MODES: dict[str, frozenset[tuple[int, int]]] = {
    "affine": frozenset((bits, group) for bits in _AFFINE_BITS for group in _AFFINE_GROUPS),
    "mxfp4": frozenset({(4, 32)}),
    "mxfp8": frozenset({(8, 32)}),
    "nvfp4": frozenset({(4, 16)}),
}
_SHARED_EXPONENT = frozenset().union(*(pairs for mode, pairs in _MODES.items() if mode != "affine"))
_NAME_SHOWN = 80


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises ModelCorrupt, which names the field."""
    settings = config.get("quantization")
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise ModelCorrupt("config.json: quantization is not an object.")
    for field in ("bits", "group_size"):
        if field not in settings:
            raise ModelCorrupt(f"config.json: quantization has no {field}.")
    _check_mode(settings, "quantization")
    for layer, own in settings.items():
        if isinstance(own, dict):
            _check_mode(own, f"quantization of {_shown(layer)}")


def _check_mode(settings: Mapping[str, Any], where: str) -> None:
    mode = settings.get("mode", "affine")
    pairs = _MODES.get(mode) if isinstance(mode, str) else None
    if pairs is None:
        raise ModelCorrupt(f"config.json: {where} names a mode that MLX does not have.")
    for field, allowed in (
        ("bits", {bits for bits, _ in pairs}),
        ("group_size", {group for _, group in pairs}),
    ):
        value = settings.get(field)
        if value is not None and (type(value) is not int or value not in allowed):
            known = " or ".join(map(str, sorted(allowed)))
            raise ModelCorrupt(f"config.json: {field} of {where} must be {known} with mode {mode}.")


def check_tensors(tensors: Mapping[str, TensorEntry]) -> None:
    """Raises ModelCorrupt, which names the tensor."""
    for name, scales in tensors.items():
        base, _, leaf = name.rpartition(".")
        weight = tensors.get(f"{base}.weight")
        if (
            leaf != "scales" or weight is None
        ):  # other packings are mlx-lm's to rename first, AWQ's `qweight` say
            continue
        if weight.dtype != PACKED_DTYPE:
            raise _corrupt(f"{base}.weight", f"has scales and is not packed (its dtype is {weight.dtype})")
        if not scales.shape or scales.shape[:-1] != weight.shape[:-1]:
            raise _corrupt(name, "has another shape than its weight")
        biases = tensors.get(f"{base}.biases")
        if biases is not None and biases.shape != scales.shape:
            raise _corrupt(f"{base}.biases", "has another shape than its scales")
        words, groups = weight.shape[-1], scales.shape[-1]
        pairs = _SHARED_EXPONENT if scales.dtype == "U8" else _MODES["affine"]
        if not groups or not any(words * 32 == groups * bits * group for bits, group in pairs):
            raise _corrupt(name, "fits no bits and group size that MLX has with its weight")


def checked_classes(get_classes: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any], tuple[Any, Any]]:
    """What mlx-lm's `load_model` may take as `get_model_classes`: the model that it builds refuses weights that do not
    fit it in the step before they are packed (`sanitize`), as ModelCorrupt."""

    def classes(config: Any) -> tuple[Any, Any]:
        model_class, args_class = get_classes(config)

        def build(args: Any) -> Any:
            model = model_class(args)
            own: Callable[[Any], Any] = getattr(model, "sanitize", dict)

            def sanitize(weights: Any) -> Any:
                del model.sanitize  # a model that refers to itself is not freed with its last user
                weights = own(weights)
                _check_fit(model, weights)
                return weights

            model.sanitize = sanitize
            return model

        return build, args_class

    return classes


def _check_fit(model: Any, weights: Mapping[str, Any]) -> None:
    for path, module in model.named_modules():
        scales = weights.get(f"{path}.scales")
        if scales is None or not hasattr(module, "to_quantized") or "weight" not in module:
            continue
        inputs = module.weight.shape[-1]
        if (packed := weights.get(f"{path}.weight")) is not None:
            groups, words = scales.shape[-1], packed.shape[-1]
        elif (
            packed := weights.get(f"{path}.qweight")
        ) is not None:  # AWQ: turned over by mlx-lm, always 4 bits
            groups, words = scales.shape[0], inputs // 8
        else:
            raise _corrupt(f"{path}.scales", "has no weight")
        group = inputs // groups if groups else 0
        bits = words * 32 // inputs if inputs else 0
        if not any((bits, group) in pairs for pairs in _MODES.values()) or group * groups != inputs:
            raise _corrupt(
                f"{path}.scales",
                f"has {groups} groups, which does not fit the {inputs} inputs that config.json gives it",
            )


def _corrupt(name: str, problem: str) -> ModelCorrupt:
    return ModelCorrupt(f"The tensor {_shown(name)} {problem}. Download or convert the model again.")


def _shown(name: object) -> str:
    text = ascii(str(name))  # from a stranger's file, and on its way into logs and answers
    return text if len(text) <= _NAME_SHOWN else f"{text[:_NAME_SHOWN]}…"
