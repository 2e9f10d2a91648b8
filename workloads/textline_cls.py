"""Text line orientation classifier of PaddleOCR, the real weights of the package `rapidocr-onnxruntime`: 1x3x48x192."""

import numpy as np

from jitterprof.backends.base import POOL, OnnxModel, Variants
from jitterprof.backends.packages import packaged_file

HEIGHT, WIDTH = 48, 192


def text_lines(rng):
    """Images in [-1, 1] as the package's own preprocessing makes them: dark strokes on a light ground."""
    images = []
    for _ in range(POOL):
        page = np.full((HEIGHT, WIDTH), 0.9, np.float32)
        for left in range(8, WIDTH - 16, 16):
            top, height, width = rng.integers(8, 16), rng.integers(12, 24), rng.integers(2, 10)
            page[top : top + height, left : left + width] = -0.8
        noisy = page + 0.05 * rng.standard_normal((3, HEIGHT, WIDTH))
        images.append({"x": noisy.clip(-1, 1).astype(np.float32)[None]})
    return images


def build_onnx():
    return OnnxModel(packaged_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"), text_lines)


def build():
    return Variants(onnxruntime=build_onnx)
