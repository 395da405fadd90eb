"""The decision core: numpy, OpenCV and ONNX Runtime. No HTTP, no SQL, no torch."""
