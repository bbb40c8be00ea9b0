"""The cluster launcher's file, by Ray's own validator."""

import logging

import pytest
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deploy.files import documents

(CLUSTER,) = documents("aws.yaml")


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR)


def test_ray_accepts_it():
    validate_config(prepare_config(CLUSTER))


def test_ray_would_refuse_what_it_does_not_know():
    content = prepare_config(CLUSTER) | {"max_wokers": 3}
    with pytest.raises(ValidationError, match="'max_wokers' was unexpected"):
        validate_config(content)


def test_only_workers_are_on_spot_hosts():
    nodes = {name: node["node_config"] for name, node in CLUSTER["available_node_types"].items()}
    assert {name for name, config in nodes.items() if "InstanceMarketOptions" in config} == {"gpu"}


def test_every_node_asks_for_a_token():
    for commands in (CLUSTER["head_start_ray_commands"], CLUSTER["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in commands)
    assert any(".ray/auth_token" in command for command in CLUSTER["setup_commands"])
