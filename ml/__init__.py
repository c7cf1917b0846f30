import ml.foundation.quiet  # noqa: F401  (first of all: onnxruntime asks while it is imported)
