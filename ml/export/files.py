"""Names of the files of an exported model that say what is served."""

MODEL, CONFIG, SCHEMA = "model.onnx", "config.pbtxt", "schema.json"
