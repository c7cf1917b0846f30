import ml.quiet  # noqa: F401  (first of all: onnxruntime asks while it is imported)
