"""Loads a registered model where there is nothing of headmask, and prints its embeddings; see `test_registering.py`."""

import base64
import json
import sys

BLOCKED = ("headmask", "workers", "strategies", "orchestrator", "ray", "optuna")


class Blocker:
    """An import hook that knows nothing of us."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
uri, store, text, image = sys.argv[1:]

import mlflow  # noqa: E402
import pandas as pd  # noqa: E402

mlflow.set_tracking_uri(store)
model = mlflow.pyfunc.load_model(uri)
with open(image, "rb") as file:
    content = file.read()
rows = [{"text": text, "image": content}, {"text": text, "image": None}, {"text": None, "image": content}]
found = model.predict(pd.DataFrame(rows))
again = model.predict({"image": [base64.b64encode(content).decode()] * 3}, params={"batch_size": 2})
listed = model.predict([{"text": text}])
print(
    json.dumps(
        {
            "text": [None if each is None else each.tolist() for each in found["text_embedding"]],
            "image": [None if each is None else each.tolist() for each in found["image_embedding"]],
            "similarity": found["similarity"].tolist(),
            "again": [each.tolist() for each in again["image_embedding"]],
            "listed": [each.tolist() for each in listed["text_embedding"]],
        }
    )
)
