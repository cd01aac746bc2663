"""ONNX nodes to calls in a torch graph."""
