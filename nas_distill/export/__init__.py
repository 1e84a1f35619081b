"""Export of students: plain folders, graphs, ONNX, and parity checks."""
