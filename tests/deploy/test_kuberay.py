"""The KubeRay manifests, by the schemas of its custom resources, as strict validation by Kubernetes would."""

from copy import deepcopy
from functools import cache

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray import __version__ as ray_version

from tests.deploy.files import SCHEMAS, documents

(CLUSTER,) = documents("kuberay/raycluster.yaml")
(JOB,) = documents("kuberay/rayjob.yaml")
CLAIM, FILES = documents("kuberay/state.yaml")
CLUSTERS = {"RayCluster": CLUSTER["spec"], "RayJob": JOB["spec"]["rayClusterSpec"]}
METADATA = {"name", "generateName", "namespace", "labels", "annotations"}
"""Of what Kubernetes knows of every object, and no custom resource describes, what these files may use."""


@cache
def validator(kind):
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not at hand: they are looked for in {SCHEMAS}")
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1" and version["served"]
    )
    return Draft202012Validator(strict(schema))


def strict(schema):
    """Return a schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {
        key: {name: strict(each) for name, each in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
    }
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and not is_open:
        changed["additionalProperties"] = False
    return changed


def mistakes(kind, content):
    metadata = set(content["metadata"])
    found = [f"{error.json_path}: {error.message}" for error in validator(kind).iter_errors(content)]
    return found + [f"$.metadata: {name}" for name in metadata - METADATA]


@pytest.mark.parametrize("content", [CLUSTER, JOB], ids=lambda content: content["kind"])
def test_kubernetes_would_accept_it(content):
    assert mistakes(content["kind"], content) == []


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        (("spec", "backofLimit"), 3, "'backofLimit' was unexpected"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "on", "'on' is not one of"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volume"), [], "'volume' was unexpected"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "8", "'8' is not of type 'integer'"),
        (
            ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limits"),
            {"cpu": []},
            "cpu: [] is not valid",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_kubernetes_would_refuse_mistakes(path, wrong, message):
    content = deepcopy(JOB)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = wrong
    assert message in "\n".join(mistakes("RayJob", content))


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_ray_is_the_version_that_the_tests_ran_on_and_asks_for_a_token(spec):
    assert spec["rayVersion"] == ray_version
    assert spec["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_the_head_alone_mounts_the_claim_and_workers_hold_gpus(spec):
    (head,) = spec["headGroupSpec"]["template"]["spec"]["volumes"]
    assert head["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert all("persistentVolumeClaim" not in volume for volume in pod["volumes"])
        assert [int(each["resources"]["limits"]["nvidia.com/gpu"]) for each in pod["containers"]] == [1]
        assert group["minReplicas"] < group["maxReplicas"]


def pods():
    for spec in CLUSTERS.values():
        yield spec["headGroupSpec"]["template"]["spec"]
        yield from (group["template"]["spec"] for group in spec["workerGroupSpecs"])
    yield FILES["spec"]


@pytest.mark.parametrize("pod", list(pods()), ids=lambda pod: pod["containers"][0]["name"])
def test_no_pod_runs_as_root_and_every_mount_is_a_volume(pod):
    assert pod["securityContext"]["runAsNonRoot"]
    mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_both_clusters_are_the_same():
    assert CLUSTERS["RayCluster"] == CLUSTERS["RayJob"]
