from pathlib import Path

import numpy as np
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

NAMES = ("card_vegetable_share", "kit_vegetable_share", "kit_price", "days_since_visit")
rng, n = np.random.default_rng(11), 20_000
customers = [rng.random(n), rng.random(n), rng.uniform(5, 14, n), rng.integers(0, 30, n)]
card, kit, price, days = customers
liking = 3 * (2 * card - 1) * (2 * kit - 1) - 0.2 * price + 0.03 * days
ordered = rng.random(n) < 1 / (1 + np.exp(-liking))

scale = make_column_transformer((StandardScaler(), list(range(len(NAMES)))))
model = make_pipeline(scale, PolynomialFeatures(2), LogisticRegression(max_iter=1000))
model.fit(np.column_stack(customers).astype(np.float32), ordered)
onnx = convert_sklearn(
    model,
    initial_types=[(name, FloatTensorType([None, 1])) for name in NAMES],
    options={id(model): {"zipmap": False}},  # probabilities as a tensor, not as a list of dictionaries
    target_opset=17,
)
(Path(__file__).parent / "teacher" / "model.onnx").write_bytes(onnx.SerializeToString())
