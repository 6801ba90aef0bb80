"""Small videos, graphs and sessions for the tests of the runtime."""

import struct
from fractions import Fraction

import av
import numpy as np
import onnx
from onnx import TensorProto, helper

from sttm_export.contracts.graph import GraphSpec, TensorSpec

ADDER = GraphSpec(
    "adder",
    (TensorSpec("x", (2, 3), "float32", "numbers"), TensorSpec("k", (), "int32", "a scalar")),
    (TensorSpec("y", (2, 3), "float32", "x + k"),),
)


def write_video(path, frames=12, width=64, height=48, rate=10, pts=None, container=None):
    """A clip whose blue channel counts the frames and whose top left quarter is red."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for index in range(frames):
            rgb = np.zeros((height, width, 3), np.uint8)
            rgb[: height // 2, : width // 2, 0] = 255
            rgb[height // 2 :, :, 2] = index * 18
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = (pts[index] if pts else index), Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_sound(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def rotate_header(path, out):
    """Give an MP4's track the display matrix of a phone held upright: a quarter turn clockwise."""
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    out.write_bytes(data)
    return out


def write_adder(path, output_name="y"):
    nodes = [
        helper.make_node("Cast", ["k"], ["kf"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "kf"], [output_name]),
    ]
    graph = helper.make_graph(
        nodes,
        "adder",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("k", TensorProto.INT32, []),
        ],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [2, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


class FakeSession:
    """Runs a Python function behind the Session interface and remembers what it was given."""

    backend = "fake"

    def __init__(self, graph, function):
        self.graph, self.function, self.calls = graph, function, []

    def run(self, inputs):
        self.calls.append(inputs)
        return self.function(inputs)
