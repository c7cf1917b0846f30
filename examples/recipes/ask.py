import os

import httpx

url = f"http://127.0.0.1:{os.environ.get('CROSSFADE_SERVE_PORT', '8080')}/rank"
recipes = [{"item_id": f"r{r}"} for r in range(50)]
request = {"surface": "suggestions", "user_id": "u3", "guests": 4, "hour": 18, "candidates": recipes}
answer = httpx.post(url, json=request)
ranked = answer.raise_for_status().json()
print(f"{ranked['surface']} by release {ranked['release']}, features of {ranked['feature_day']}")
for item in ranked["items"][:5]:
    print(item["item_id"], item["score"])
