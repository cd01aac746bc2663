"""An ONNX checkpoint taken apart: graph and weights, its inputs, its head, and onnxruntime on it."""
