"""Multi-layer perceptron: the smallest request there is, about 0.2 ms on one thread. Seeded weights."""

from itertools import pairwise

import numpy as np

from jitterprof.backends.base import POOL, OnnxModel, TorchModel, Variants
from jitterprof.backends.graph import Graph

SIZES = (512, 1024, 1024, 256)
SEED = 20_001


def weights():
    """[(weight [out, in], bias [out])] of each layer."""
    rng = np.random.default_rng(SEED)
    return [
        (
            rng.standard_normal((size, before), np.float32) * np.float32((2 / before) ** 0.5),
            np.zeros(size, np.float32),
        )
        for before, size in pairwise(SIZES)
    ]


def inputs(rng):
    return [{"x": rng.standard_normal((1, SIZES[0]), np.float32)} for _ in range(POOL)]


def build_torch():
    import torch

    layers = []
    for weight, bias in weights():
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        layers += [layer, torch.nn.ReLU()]
    return TorchModel(torch.nn.Sequential(*layers[:-1]), inputs)


def build_onnx():
    graph = Graph("mlp")
    value = graph.input("x", "float32", (1, SIZES[0]))
    layers = weights()
    for position, (weight, bias) in enumerate(layers):
        value = graph.op("Gemm", value, graph.weight(weight), graph.weight(bias), transB=1)
        if position < len(layers) - 1:
            value = graph.op("Relu", value)
    graph.output("y", value, "float32", (1, SIZES[-1]))
    return OnnxModel(graph.serialise(), inputs)


def build():
    return Variants(torch=build_torch, onnxruntime=build_onnx)
