"""The model in PyTorch, for training on CUDA: the same mathematics as mlx-lm's Qwen3, under the same weight names.

Weights are float32, arithmetic is bfloat16. `imitate_4_bit` makes every matrix look as the exported file will hold it
(quantisation.py), with gradients passed straight through.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basemlx.engine.tiny.training.architecture import BITS, GROUP_SIZE, Shape

LEVELS = 2**BITS - 1


def as_4_bit(weight: Tensor) -> Tensor:
    """The weight after quantisation; the gradient is the weight's own."""
    with torch.no_grad():
        groups = weight.detach().float().reshape(weight.shape[0], -1, GROUP_SIZE)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / LEVELS).clamp_min(1e-7)
        from_low = low.abs() > high.abs()
        scale = torch.where(from_low, scale, -scale)
        edge = torch.where(from_low, low, high)
        steps = torch.round(edge / scale)
        scale = torch.where(steps != 0, edge / torch.where(steps != 0, steps, torch.ones_like(steps)), scale)
        bias = torch.where(steps != 0, edge, torch.zeros_like(edge))
        scale, bias = scale.bfloat16().float(), bias.bfloat16().float()
        numbers = torch.round((groups - bias) / scale).clamp(0, LEVELS)
        difference = (numbers * scale + bias).reshape(weight.shape) - weight.detach()
    return weight + difference


def _weight(weight: Tensor, imitate: bool) -> Tensor:
    return (as_4_bit(weight) if imitate else weight).bfloat16()


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * weight).to(x.dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)


class Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * spread)


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        spread = shape.hidden**-0.5 * 0.6
        self.q_proj = Linear(shape.hidden, shape.heads * shape.head_dim, spread)
        self.k_proj = Linear(shape.hidden, shape.kv_heads * shape.head_dim, spread)
        self.v_proj = Linear(shape.hidden, shape.kv_heads * shape.head_dim, spread)
        self.o_proj = Linear(shape.heads * shape.head_dim, shape.hidden, spread / (2 * shape.layers) ** 0.5)
        self.q_norm = Norm(shape.head_dim)
        self.k_norm = Norm(shape.head_dim)


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        spread = shape.hidden**-0.5 * 0.6
        self.gate_proj = Linear(shape.hidden, shape.intermediate, spread)
        self.up_proj = Linear(shape.hidden, shape.intermediate, spread)
        self.down_proj = Linear(shape.intermediate, shape.hidden, spread / (2 * shape.layers) ** 0.5)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = Norm(shape.hidden)
        self.post_attention_layernorm = Norm(shape.hidden)

    def weights(self) -> tuple[Tensor, ...]:
        """In the order that `layer_output` takes them."""
        attention, mlp = self.self_attn, self.mlp
        modules = (
            self.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            attention.q_norm, attention.k_norm, self.post_attention_layernorm, mlp.gate_proj, mlp.up_proj,
            mlp.down_proj,
        )  # fmt: skip
        return tuple(module.weight for module in modules)


def layer_output(
    x: Tensor,
    weights: tuple[Tensor, ...],
    cosine: Tensor,
    sine: Tensor,
    head_dim: int,
    epsilon: float,
    imitate: bool,
) -> Tensor:
    """One layer. x: [B, T, hidden] bfloat16. A plain function, so that one compilation serves every layer."""
    norm_in, q_proj, k_proj, v_proj, o_proj, q_norm, k_norm, norm_mlp, gate_proj, up_proj, down_proj = weights
    batch, length, _ = x.shape
    h = _norm(x, norm_in, epsilon)
    queries = F.linear(h, _weight(q_proj, imitate)).view(batch, length, -1, head_dim)
    keys = F.linear(h, _weight(k_proj, imitate)).view(batch, length, -1, head_dim)
    values = F.linear(h, _weight(v_proj, imitate)).view(batch, length, -1, head_dim).transpose(1, 2)
    queries = _rotate(_norm(queries, q_norm, epsilon).transpose(1, 2), cosine, sine)
    keys = _rotate(_norm(keys, k_norm, epsilon).transpose(1, 2), cosine, sine)
    groups = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, -1), _weight(o_proj, imitate))
    h = _norm(x, norm_mlp, epsilon)
    gate = F.linear(h, _weight(gate_proj, imitate))
    up = F.linear(h, _weight(up_proj, imitate))
    return x + F.linear(F.silu(gate) * up, _weight(down_proj, imitate))


class Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = Linear(shape.hidden, shape.vocab_size, 0.02)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.layers)])
        self.norm = Norm(shape.hidden)


def head(x: Tensor, norm: Tensor, embedding: Tensor, epsilon: float, imitate: bool) -> Tensor:
    """Logits [..., V] in bfloat16."""
    return F.linear(_norm(x, norm, epsilon), _weight(embedding, imitate))


def loss_of(
    x: Tensor, norm: Tensor, embedding: Tensor, labels: Tensor, epsilon: float, imitate: bool
) -> Tensor:
    """The mean cross-entropy over the labels that are not -100."""
    logits = head(x, norm, embedding, epsilon, imitate).float()
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=-100)


class Transformer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        half = torch.arange(0, shape.head_dim, 2) / shape.head_dim
        angles = torch.arange(shape.context_tokens)[:, None] / shape.rope_base ** half[None, :]
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        self.run_layer = layer_output
        self.run_loss = loss_of

    def compile_parts(self) -> None:
        """One compiled layer serves all eight; much quicker to compile than the whole."""
        self.run_layer = torch.compile(layer_output, dynamic=False)
        self.run_loss = torch.compile(loss_of, dynamic=False)

    def hidden(self, tokens: Tensor, imitate: bool) -> Tensor:
        """tokens: [B, T]. The last layer's output, before the final norm."""
        embedding = self.model.embed_tokens.weight
        x = F.embedding(tokens, as_4_bit(embedding) if imitate else embedding).bfloat16()
        length = tokens.shape[1]
        cosine, sine = self.cosine[:length], self.sine[:length]
        for layer in self.model.layers:
            x = self.run_layer(
                x, layer.weights(), cosine, sine, self.shape.head_dim, self.shape.norm_epsilon, imitate
            )
        return x

    def loss(self, tokens: Tensor, labels: Tensor, imitate: bool) -> Tensor:
        body = self.model
        x = self.hidden(tokens, imitate)
        return self.run_loss(
            x, body.norm.weight, body.embed_tokens.weight, labels, self.shape.norm_epsilon, imitate
        )

    def logits(self, tokens: Tensor, imitate: bool) -> Tensor:
        body = self.model
        x = self.hidden(tokens, imitate)
        return head(x, body.norm.weight, body.embed_tokens.weight, self.shape.norm_epsilon, imitate)
