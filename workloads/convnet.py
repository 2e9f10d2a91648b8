"""Residual convolutional network on a 96x96 image: about 2 ms on one thread. Seeded weights."""

import numpy as np

from jitterprof.backends.base import POOL, OnnxModel, TorchModel, Variants
from jitterprof.backends.graph import Graph

SIDE, CLASSES, SEED = 96, 100, 20_002
#: Output channels of each stage; a stage halves the image and adds one residual block.
STAGES = (32, 64, 128)


def weights():
    """Name -> array: `down`, `a` and `b` convolutions [out, in, 3, 3] with biases for each stage, and the head."""
    rng = np.random.default_rng(SEED)
    found = {}

    def convolution(name, out, into, gain):
        found[f"{name}.weight"] = rng.standard_normal((out, into, 3, 3), np.float32) * np.float32(
            gain / (9 * into) ** 0.5
        )
        found[f"{name}.bias"] = np.zeros(out, np.float32)

    into = 3
    for stage, channels in enumerate(STAGES):
        convolution(f"{stage}.down", channels, into, 1.4)
        convolution(f"{stage}.a", channels, channels, 1.4)
        convolution(f"{stage}.b", channels, channels, 0.5)
        into = channels
    found["head.weight"] = rng.standard_normal((CLASSES, into), np.float32) * np.float32(into**-0.5)
    found["head.bias"] = np.zeros(CLASSES, np.float32)
    return found


def inputs(rng):
    return [{"image": rng.standard_normal((1, 3, SIDE, SIDE), np.float32)} for _ in range(POOL)]


def build_torch():
    import torch
    from torch import nn

    class Stage(nn.Module):
        def __init__(self, into, channels):
            super().__init__()
            self.down = nn.Conv2d(into, channels, 3, stride=2, padding=1)
            self.a = nn.Conv2d(channels, channels, 3, padding=1)
            self.b = nn.Conv2d(channels, channels, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.down(x))
            return torch.relu(x + self.b(torch.relu(self.a(x))))

    class Net(nn.Sequential):
        def forward(self, x):
            *stages, head = self
            for stage in stages:
                x = stage(x)
            return head(x.mean((2, 3)))

    net = Net()
    for stage, (into, channels) in enumerate(zip((3, *STAGES), STAGES, strict=False)):
        net.add_module(str(stage), Stage(into, channels))
    net.add_module("head", nn.Linear(STAGES[-1], CLASSES))
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights().items()})
    return TorchModel(net, inputs)


def build_onnx():
    graph, arrays = Graph("convnet"), weights()

    def convolution(x, name, stride):
        weight, bias = (graph.weight(arrays[f"{name}.{part}"]) for part in ("weight", "bias"))
        return graph.op("Conv", x, weight, bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])

    value = graph.input("image", "float32", (1, 3, SIDE, SIDE))
    for stage in range(len(STAGES)):
        value = graph.op("Relu", convolution(value, f"{stage}.down", 2))
        branch = graph.op("Relu", convolution(value, f"{stage}.a", 1))
        value = graph.op("Relu", graph.op("Add", value, convolution(branch, f"{stage}.b", 1)))
    value = graph.op("Flatten", graph.op("GlobalAveragePool", value))
    head = (graph.weight(arrays[f"head.{part}"]) for part in ("weight", "bias"))
    graph.output("scores", graph.op("Gemm", value, *head, transB=1), "float32", (1, CLASSES))
    return OnnxModel(graph.serialise(), inputs)


def build():
    return Variants(torch=build_torch, onnxruntime=build_onnx)
