"""Silero VAD, the real weights of the package `silero-vad`: one 32 ms frame of 16 kHz audio a request, state carried.

Each worker listens to a stream of its own: the recurrent state of a request comes from the request before it.
"""

import numpy as np

from jitterprof.backends.base import OnnxModel, TorchModel, Variants
from jitterprof.backends.packages import packaged_file

RATE, FRAME, CONTEXT = 16_000, 512, 64
#: About half a second, played again and again.
FRAMES = 16


def audio(rng):
    """[FRAMES * FRAME] samples of a voice-like sound: harmonics of 120 Hz under a slow envelope, and some noise.

    It ends in silence, so that it can be played again as if it were the first time.
    """
    seconds = np.arange(FRAMES * FRAME) / RATE
    tone = sum(np.sin(2 * np.pi * 120 * harmonic * seconds) / harmonic for harmonic in range(1, 12))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * seconds)
    sound = 0.2 * envelope * tone + 0.01 * rng.standard_normal(seconds.size)
    sound[-CONTEXT:] = 0
    return sound.astype(np.float32)


def frames(rng):
    return [{"x": frame[None], "rate": RATE} for frame in np.split(audio(rng), FRAMES)]


def frames_with_context(rng):
    """The ONNX graph wants the last samples of the frame before in front of each frame."""
    samples = audio(rng)
    padded = np.concatenate([samples[-CONTEXT:], samples])
    start = {"state": np.zeros((2, 1, 128), np.float32), "sr": np.array(RATE, np.int64)}
    return [{"input": padded[at : at + CONTEXT + FRAME][None], **start} for at in range(0, samples.size, FRAME)]


def build_torch():
    import torch

    return TorchModel(torch.jit.load(packaged_file("silero_vad", "data/silero_vad.jit")), frames, stateful=True)


def build_onnx():
    graph = packaged_file("silero_vad", "data/silero_vad_16k_op15.onnx")
    return OnnxModel(graph, frames_with_context, carry={"stateN": "state"})


def build():
    return Variants(torch=build_torch, onnxruntime=build_onnx)
