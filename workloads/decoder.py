"""GPT-like decoder with a key/value cache: a prompt of 32 tokens, then 24 generated one by one, about 1.5 ms each.

Seeded weights, greedy choice. Every token is marked: the first after the prefill, the others after one step each.
"""

import numpy as np

from jitterprof.backends.base import POOL, OnnxDecoder, TorchDecoder, Variants
from jitterprof.backends.graph import Graph

WIDTH, HEADS, LAYERS, VOCABULARY, SEED = 384, 6, 4, 2048, 20_004
PROMPT, NEW_TOKENS = 32, 24
LONGEST = PROMPT + NEW_TOKENS
EPSILON = 1e-5


def weights():
    """Name -> array, named as in the torch module; matrices are [out, in]. The head has weights of its own."""
    rng = np.random.default_rng(SEED)

    def matrix(rows, columns):
        return rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)

    found = {"embed.weight": rng.standard_normal((VOCABULARY, WIDTH), np.float32)}
    found["place.weight"] = rng.standard_normal((LONGEST, WIDTH), np.float32)
    for layer in range(LAYERS):
        for name, out, into in (("qkv", 3, 1), ("mix", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            found[f"blocks.{layer}.{name}.weight"] = matrix(out * WIDTH, into * WIDTH)
            found[f"blocks.{layer}.{name}.bias"] = np.zeros(out * WIDTH, np.float32)
        for name in ("before", "between"):
            found[f"blocks.{layer}.{name}.weight"] = np.ones(WIDTH, np.float32)
            found[f"blocks.{layer}.{name}.bias"] = np.zeros(WIDTH, np.float32)
    found["last.weight"], found["last.bias"] = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    found["head.weight"], found["head.bias"] = matrix(VOCABULARY, WIDTH), np.zeros(VOCABULARY, np.float32)
    return found


def prompts(rng):
    return [{"tokens": rng.integers(0, VOCABULARY, (1, PROMPT))} for _ in range(POOL)]


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

        def forward(self, x, position, cache):
            count = x.shape[1]
            parts = self.qkv(self.before(x)).view(1, count, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            cache[:, :, :, position : position + count] = parts[1:]
            keys, values = cache[:, :, :, : position + count].unbind()
            mixed = functional.scaled_dot_product_attention(parts[0], keys, values, is_causal=count > 1)
            x = x + self.mix(mixed.transpose(1, 2).reshape(1, count, WIDTH))
            return x + self.down(functional.gelu(self.up(self.between(x))))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.last, self.head = nn.LayerNorm(WIDTH, EPSILON), nn.Linear(WIDTH, VOCABULARY)

        def start(self):
            return torch.zeros(LAYERS, 2, 1, HEADS, LONGEST, WIDTH // HEADS, device=self.head.weight.device)

        def forward(self, tokens, position, cache):
            x = self.embed(tokens) + self.place.weight[position : position + tokens.shape[1]]
            for block, part in zip(self.blocks, cache, strict=True):
                x = block(x, position, part)
            return self.head(self.last(x[:, -1:])).argmax(-1)

    decoder = Decoder()
    decoder.load_state_dict({name: torch.from_numpy(array) for name, array in weights().items()})
    return TorchDecoder(decoder, prompts, NEW_TOKENS)


def build_onnx():
    graph, arrays, head = Graph("decoder"), weights(), WIDTH // HEADS
    tokens = graph.input("tokens", "int64", (1, "n"))
    positions = graph.input("positions", "int64", (1, "n"))
    x = graph.op(
        "Add",
        graph.op("Gather", graph.weight(arrays["embed.weight"]), tokens),
        graph.op("Gather", graph.weight(arrays["place.weight"]), positions),
    )
    # Token i of the n new ones sees all cached tokens and the new ones up to itself.
    total = graph.op("Add", graph.op("ReduceMax", positions, keepdims=0), graph.weight(np.int64(1)))
    columns = graph.op("Range", graph.weight(np.int64(0)), total, graph.weight(np.int64(1)))
    later = graph.op("Greater", columns, graph.op("Unsqueeze", positions, graph.ints(1, 3)))
    hidden = graph.op("Where", later, graph.weight(np.float32(-1e9)), graph.weight(np.float32(0)))
    cache = {}
    for layer in range(LAYERS):

        def part(name, layer=layer):
            return arrays[f"blocks.{layer}.{name}.weight"], arrays[f"blocks.{layer}.{name}.bias"]

        normal = graph.layer_norm(x, *part("before"), EPSILON)
        query, *fresh = (
            graph.split_heads(graph.linear(normal, weight, bias), HEADS, head)
            for weight, bias in zip(*(np.split(each, 3) for each in part("qkv")), strict=True)
        )
        whole = []
        for what, value in zip(("key", "value"), fresh, strict=True):
            past, present = f"past_{what}_{layer}", f"present_{what}_{layer}"
            cache[past] = present
            joined = graph.op("Concat", graph.input(past, "float32", (1, HEADS, "past", head)), value, axis=2)
            graph.output(present, joined, "float32", (1, HEADS, "total", head))
            whole.append(joined)
        x = graph.op("Add", x, graph.linear(graph.attention(query, *whole, head, HEADS, hidden), *part("mix")))
        wide = graph.gelu(graph.linear(graph.layer_norm(x, *part("between"), EPSILON), *part("up")))
        x = graph.op("Add", x, graph.linear(wide, *part("down")))
    last = graph.op("Slice", x, graph.ints(-1), graph.ints(2**31), graph.ints(1))
    last = graph.layer_norm(last, arrays["last.weight"], arrays["last.bias"], EPSILON)
    scores = graph.linear(last, arrays["head.weight"], arrays["head.bias"])
    graph.output("next", graph.op("ArgMax", scores, axis=-1, keepdims=0), "int64", (1, 1))
    return OnnxDecoder(graph.serialise(), prompts, NEW_TOKENS, cache, (1, HEADS, head))


def build():
    return Variants(torch=build_torch, onnxruntime=build_onnx)
