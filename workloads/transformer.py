"""Transformer encoder over 128 tokens: about 10 ms on one thread. Seeded weights."""

import numpy as np

from jitterprof.backends.base import POOL, OnnxModel, TorchModel, Variants
from jitterprof.backends.graph import Graph

WIDTH, HEADS, LAYERS, TOKENS, VOCABULARY, SEED = 256, 8, 4, 128, 1000, 20_003
EPSILON = 1e-5


def weights():
    """Name -> array, named as in the torch module; matrices are [out, in]."""
    rng = np.random.default_rng(SEED)

    def matrix(rows, columns):
        return rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)

    found = {"embed.weight": rng.standard_normal((VOCABULARY, WIDTH), np.float32)}
    found["place"] = rng.standard_normal((TOKENS, WIDTH), np.float32)
    for layer in range(LAYERS):
        for name, out, into in (("qkv", 3, 1), ("mix", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            found[f"blocks.{layer}.{name}.weight"] = matrix(out * WIDTH, into * WIDTH)
            found[f"blocks.{layer}.{name}.bias"] = np.zeros(out * WIDTH, np.float32)
        for name in ("before", "between"):
            found[f"blocks.{layer}.{name}.weight"] = np.ones(WIDTH, np.float32)
            found[f"blocks.{layer}.{name}.bias"] = np.zeros(WIDTH, np.float32)
    return found


def inputs(rng):
    return [{"tokens": rng.integers(0, VOCABULARY, (1, TOKENS))} for _ in range(POOL)]


def build_torch():
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.between = nn.LayerNorm(WIDTH, EPSILON), nn.LayerNorm(WIDTH, EPSILON)
            self.qkv, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            parts = self.qkv(self.before(x)).view(1, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(*parts.unbind())
            x = x + self.mix(mixed.transpose(1, 2).reshape(1, -1, WIDTH))
            return x + self.down(functional.gelu(self.up(self.between(x))))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.place = nn.Parameter(torch.empty(TOKENS, WIDTH))
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))

        def forward(self, tokens):
            return self.blocks(self.embed(tokens) + self.place).mean(1)

    encoder = Encoder()
    encoder.load_state_dict({name: torch.from_numpy(array) for name, array in weights().items()})
    return TorchModel(encoder, inputs)


def build_onnx():
    graph, arrays = Graph("transformer"), weights()
    tokens = graph.input("tokens", "int64", (1, TOKENS))
    x = graph.op("Gather", graph.weight(arrays["embed.weight"]), tokens)
    x = graph.op("Add", x, graph.weight(arrays["place"]))
    for layer in range(LAYERS):

        def part(name, layer=layer):
            return arrays[f"blocks.{layer}.{name}.weight"], arrays[f"blocks.{layer}.{name}.bias"]

        normal = graph.layer_norm(x, *part("before"), EPSILON)
        query, key, value = (
            graph.split_heads(graph.linear(normal, weight, bias), HEADS, WIDTH // HEADS)
            for weight, bias in zip(*(np.split(each, 3) for each in part("qkv")), strict=True)
        )
        mixed = graph.attention(query, key, value, WIDTH // HEADS, HEADS)
        x = graph.op("Add", x, graph.linear(mixed, *part("mix")))
        wide = graph.gelu(graph.linear(graph.layer_norm(x, *part("between"), EPSILON), *part("up")))
        x = graph.op("Add", x, graph.linear(wide, *part("down")))
    graph.output("pooled", graph.op("ReduceMean", x, axes=[1], keepdims=0), "float32", (1, WIDTH))
    return OnnxModel(graph.serialise(), inputs)


def build():
    return Variants(torch=build_torch, onnxruntime=build_onnx)
