"""How Ray is started on this machine."""

import os
import subprocess
import sys

PROGRAM = """
import os
import ray
from workers.pool.cluster import check_pool, connect

check_pool(None, 1, 1, 0, None)
connection = connect(None)
assert connection.is_own and os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
connection.close()
assert not ray.is_initialized()
print("started")
"""


def test_ray_starts_with_a_token_also_where_it_was_imported_before():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("started\n", "")
