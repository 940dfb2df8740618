"""docs/cluster.md: its YAML is what Kubernetes, KubeRay, Ray and this package take, as far as that can be told without a cluster."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from mm1_ablate.config.sweep.declaration import Resources

TEXT = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
DOCUMENTS = [document for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) for document in yaml.safe_load_all(block)]
KINDS = {document["kind"]: document for document in DOCUMENTS if "kind" in document}
CLUSTER_FIELDS = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}
"""Those of https://github.com/ray-project/kuberay/blob/master/ray-operator/apis/ray/v1/raycluster_types.go that are needed here."""


def pods() -> list[dict[str, Any]]:
    spec = KINDS["RayCluster"]["spec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"], KINDS["Deployment"]["spec"])]


def test_the_ray_cluster_has_the_fields_of_kuberay_and_its_pods_share_the_volume() -> None:
    cluster = KINDS["RayCluster"]
    assert cluster["apiVersion"] == "ray.io/v1" and set(cluster["spec"]) <= CLUSTER_FIELDS
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        assert set(group) <= GROUP_FIELDS and all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert KINDS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods():
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == KINDS["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_pods_of_workers_have_gpus_and_the_tracking_server_is_the_one_that_is_served() -> None:
    worker = pods()[1]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"]
    named = {entry["name"]: entry["value"] for entry in worker["env"]}
    service = KINDS["Service"]
    assert named["MLFLOW_TRACKING_URI"] == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["selector"] == KINDS["Deployment"]["spec"]["template"]["metadata"]["labels"]


def test_the_launchers_file_is_valid_by_rays_own_schema() -> None:
    import ray

    (launcher,) = (document for document in DOCUMENTS if "cluster_name" in document)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(launcher, schema)
    assert launcher["head_node_type"] in launcher["available_node_types"]
    # What is set up is what was brought: the shared folder is empty at first.
    brought = [place for place in launcher["file_mounts"] if not place.endswith("auth_token")]
    assert brought and all(f"{place}/constraints.txt" in launcher["setup_commands"][-1] for place in brought)


def test_the_resources_are_valid() -> None:
    (declared,) = (document["resources"] for document in DOCUMENTS if list(document) == ["resources"])
    assert Resources.model_validate(declared).gpus == 8


def test_the_options_of_ray_and_mlflow_that_are_used_exist() -> None:
    from mlflow.cli import cli as mlflow_cli
    from ray.scripts.scripts import cli as ray_cli

    def options(command: Any) -> set[str]:
        return {name for parameter in command.params for name in parameter.opts}

    command = KINDS["Deployment"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert {word for word in command if word.startswith("--")} <= options(mlflow_cli.commands["server"])
    assert {"--address", "--min-nodes"} <= options(ray_cli.commands["symmetric-run"])
    assert {"--address", "--no-wait", "--submission-id"} <= options(ray_cli.commands["job"].commands["submit"])
    assert {"--tmux"} <= options(ray_cli.commands["exec"]) and "rsync-up" in ray_cli.commands
    assert {"--head", "--autoscaling-config", "--num-cpus", "--num-gpus"} <= options(ray_cli.commands["start"])


@pytest.mark.parametrize("script", re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL))
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_policy_for_a_store_on_s3_has_the_rights_that_refusals_name() -> None:
    from mm1_ablate.store.bucket import object_store

    found = re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    statements = json.loads(found[1])["Statement"]
    allowed = set(np.concatenate([np.atleast_1d(statement["Action"]) for statement in statements]))
    assert set(re.findall(r"s3:\w+", Path(object_store.__file__).read_text())) <= allowed
    assert all(statement["Resource"].startswith("arn:aws:s3:::my-bucket") for statement in statements)
