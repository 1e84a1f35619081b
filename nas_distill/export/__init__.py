"""Students leave here: folders of plain files, ONNX, and the check that a file computes what its network computes."""
