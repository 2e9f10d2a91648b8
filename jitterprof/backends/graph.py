"""ONNX graphs from numpy weights, for the reference models. The only importer of `onnx`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from jitterprof.backends.packages import missing_package

_OPSET = 17
#: What the oldest supported onnxruntime (1.18) reads.
_IR_VERSION = 9

Weights = dict[str, npt.NDArray[Any]]


class Graph:
    """A graph under construction. Values are passed around by name; every method returns the name of its result."""

    def __init__(self, name: str) -> None:
        try:
            import onnx
        except ModuleNotFoundError as error:
            raise missing_package(error.name or "onnx") from error
        self._onnx = onnx
        self._name = name
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._count = 0

    def input(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> str:
        """Declare an input; a string is a dynamic axis."""
        self._inputs.append(self._value(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: tuple[int | str, ...]) -> None:
        """Declare that `value` is returned as `name`."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._value(name, dtype, shape))

    def weight(self, array: npt.NDArray[Any] | np.generic) -> str:
        """A constant stored in the graph."""
        name = self._next("w")
        self._weights.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.weight(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output."""
        name = self._next(kind)
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def linear(self, x: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> str:
        """x @ weight.T + bias, `weight` as torch stores it: [out, in]."""
        return self.op("Add", self.op("MatMul", x, self.weight(weight.T)), self.weight(bias))

    def layer_norm(self, x: str, scale: npt.NDArray[Any], bias: npt.NDArray[Any], epsilon: float) -> str:
        """Layer normalisation over the last axis."""
        return self.op("LayerNormalization", x, self.weight(scale), self.weight(bias), axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """The exact (erf) GELU, in the pattern that onnxruntime fuses."""
        erf = self.op("Erf", self.op("Div", x, self.weight(np.float32(np.sqrt(2.0)))))
        scaled = self.op("Mul", x, self.op("Add", erf, self.weight(np.float32(1.0))))
        return self.op("Mul", scaled, self.weight(np.float32(0.5)))

    def split_heads(self, x: str, heads: int, width: int) -> str:
        """[1, n, heads * width] -> [1, heads, n, width]."""
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, heads, width)), perm=[0, 2, 1, 3])

    def attention(self, q: str, k: str, v: str, width: int, heads: int, bias: str = "") -> str:
        """Scaled dot-product attention, [1, heads, n, width] -> [1, n, heads * width]; `bias` adds to the scores."""
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.weight(np.float32(1 / np.sqrt(width))))
        if bias:
            scores = self.op("Add", scores, bias)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(0, 0, heads * width))

    def serialise(self) -> bytes:
        """The finished model as the bytes of an .onnx file."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="jitterprof"
        )
        data: bytes = model.SerializeToString()
        return data

    def _next(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def _value(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> Any:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._onnx.helper.make_tensor_value_info(name, kind, list(shape))
