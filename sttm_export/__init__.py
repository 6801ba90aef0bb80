"""Static-shape export of STTM video token merging to ONNX and TensorRT."""

__version__ = "0.1.0"
