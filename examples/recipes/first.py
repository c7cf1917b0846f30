from ml.foundation.lake import Lake
from ml.foundation.settings import Settings

first = "select item_id, score from lake.ml.rankings_suggestions where user_id = 'u3' order by rank limit 3"
with Lake(Settings()) as lake:
    for row in lake.sql(first).to_pylist():
        print(row["item_id"], row["score"])
