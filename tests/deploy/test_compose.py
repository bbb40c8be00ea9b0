"""The Compose file, by the specification's schema, and what a schema cannot see."""

import json

import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

from tests.deploy.files import documents

(COMPOSE,) = documents("compose.yaml")
SERVICES = COMPOSE["services"]
SCHEMA = get_builtin_schema("vendor.compose-spec")
VALIDATOR = validator_for(SCHEMA)(SCHEMA)


def test_it_is_a_compose_file():
    assert [error.message for error in VALIDATOR.iter_errors(COMPOSE)] == []


def test_the_schema_refuses_what_it_does_not_know():
    content = json.loads(json.dumps(COMPOSE))
    content["services"]["head"]["imgae"] = "headmask"
    assert "'imgae' was unexpected" in "".join(error.message for error in VALIDATOR.iter_errors(content))


def test_every_port_is_published_on_this_host_alone():
    assert {port.split(":")[0] for service in SERVICES.values() for port in service.get("ports", [])} == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["head", "worker", "gpu-worker"])
def test_ray_asks_for_a_token(name):
    environment = SERVICES[name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_whatever_a_service_waits_for_has_a_health_check():
    awaited = {name for service in SERVICES.values() for name in service.get("depends_on", {})}
    assert {"healthcheck" in SERVICES[name] for name in awaited} == {True}
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])
