"""A search on two hosts, submitted as on any cluster: `ray job submit`, from a folder that is not the repository.

The hosts are namespaces of this machine's kernel with an address each, where those may be made, and the raylets of a
`Cluster` everywhere. Either has one CPU, so that two replicas are on both.
"""

import json
import os
import secrets
import subprocess

import pytest

from tests.chaos.arena import ENVIRONMENT, HEADMASK
from tests.deploy.files import BIN, ROOT, SEARCH_OR_RESUME, TWO_HOSTS
from tests.orchestrator.studies import outcome, start, trials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CABLE = "unshare --user --map-root-user --net --mount --pid --fork --mount-proc ip link add cable type veth"
SUBMIT = """
set -e
search() {
    ray job submit -- search-or-resume "$PWD/search.toml" "$PWD/runs/job" "$PWD/runs/job/study.journal" \\
        --address auto --replicas 2 "$@"
}
search --shards 2 --masks 40
ray list tasks --filter name=Host.call --filter state=FINISHED --limit 10000 --format json >tasks.json
ray list nodes --format json >nodes.json
search --shards 1 --masks 60
"""
"""Shards are on both hosts before a mask is scored; the second search goes on with the study of the first."""


def in_namespaces(folder, hidden):
    """Submit from a host that is joined by a cable to another one, which sees nothing of what the driver reads."""
    tried = subprocess.run(CABLE, shell=True, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"namespaces may not be made here: {tried.stderr.strip()}")
    return run([TWO_HOSTS, hidden, "bash", "-c", SUBMIT], folder)


def on_a_cluster(folder, hidden):
    """Submit to the first of two raylets of this machine."""
    from ray.cluster_utils import Cluster

    head = {"include_dashboard": True, "dashboard_port": 0, "dashboard_agent_listen_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **head})
    try:
        cluster.add_node(num_cpus=1, dashboard_agent_listen_port=0)
        url = f"http://{cluster.head_node.webui_url}"
        return run(["env", f"RAY_API_SERVER_ADDRESS={url}", "bash", "-c", SUBMIT], folder)
    finally:
        cluster.shutdown()


def run(command, folder):
    """Return the nodes with their addresses, and the addresses of those on which replicas have worked, once each."""
    log = folder / "log"
    with log.open("w") as file:
        code = subprocess.run(command, cwd=folder, stdout=file, stderr=file).returncode
    assert code == 0, log.read_text()
    nodes = {node["node_id"]: node["node_ip"] for node in json.loads((folder / "nodes.json").read_text())}
    used = {task["node_id"] for task in json.loads((folder / "tasks.json").read_text())}
    return sorted(nodes.values()), sorted(nodes[node] for node in used)


@pytest.mark.parametrize("place", [in_namespaces, on_a_cluster])
def test_a_search_on_two_hosts_is_the_search_in_one_process(
    place, tiny_config, tmp_path, tmp_path_factory, runs, monkeypatch
):
    expected = tiny_config("inline", budget__masks=60)
    start(expected)
    (tmp_path / "search.toml").write_text(f"""
        model = {{name = "{expected.model.name}"}}
        data = [{{path = "{expected.data[0].path}"}}]
        search = {{precheck = false, image_chunk = 16, random_masks = 4, finalists = 4, block_size = 8}}
    """)
    (tmp_path / "search-or-resume").symlink_to(SEARCH_OR_RESUME)
    (tmp_path / "headmask").write_text(f"#!{BIN / 'python'}\n{HEADMASK}\n")
    (tmp_path / "headmask").chmod(0o755)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": str(ROOT)}
    environment |= {"PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}", "HEADMASK_CACHE": str(tmp_path / "cache")}
    for name, value in (ENVIRONMENT | environment).items():
        monkeypatch.setenv(name, value)

    nodes, used = place(tmp_path, hidden=tmp_path_factory.getbasetemp())
    assert used == nodes
    assert len(nodes) == 2
    if place is in_namespaces:
        assert nodes == ["192.0.2.1", "192.0.2.2"]
    assert trials(runs / "job") == trials(expected.folder)
    assert outcome(runs / "job") == outcome(expected.folder)
