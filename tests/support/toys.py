"""A small teacher in ONNX's text, for tests of what it says of items."""

GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
toy (float[n] item_ctr, float[n] absent) => (float[n] click, float[n, 2] thing) {
    four = Constant <value = float {4.0}> ()
    scaled = Mul (item_ctr, four)
    click = Add (scaled, absent)
    axis = Constant <value = int64[1] {1}> ()
    column = Unsqueeze (item_ctr, axis)
    waves = Sin (column)
    thing = Concat <axis = 1> (column, waves)
}
"""
"""A score of an item, and a vector of it."""
