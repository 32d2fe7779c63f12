"""What .github/workflows/aks.yml makes of the chart, without GitHub and without a cluster.

    canary.py FOLDER HELM...

Renders as azure/k8s-bake does with the inputs of the workflow, puts the image in as azure/k8s-deploy
does, and makes the canary as it does for a percentage, into FOLDER/stable.yaml and canary.yaml.
"""

import copy
import pathlib
import re
import subprocess
import sys

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "registry.azurecr.io/roomcast"
IMAGE = f"{REPOSITORY}:{COMMIT}@sha256:{'ab' * 32}"
EXPRESSIONS = {
    "env.REPOSITORY": REPOSITORY,
    "env.NAMESPACE": "roomcast",
    "inputs.percentage": "25",
    "steps.choose.outputs.image": IMAGE,
}


def inputs(step):
    """A step's inputs, with its expressions replaced; one that is not known stays as it is."""

    def known(found):
        return EXPRESSIONS.get(found[1], found[0])

    given = step["with"].items()
    return {name: re.sub(r"\$\{\{ (.*?) \}\}", known, str(value)) for name, value in given}


def bake(helm, given):
    """The command that azure/k8s-bake builds."""
    assert given["renderEngine"] == "helm"
    command = [helm, "template", "--namespace", given["namespace"]]
    command += [given["releaseName"], given["helmChart"]]
    for override in given["overrides"].strip().split("\n"):
        name, _, value = override.partition(":")
        command += ["--set", f"{name}={value}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def substitute(manifest, image):
    """The image, in every line that has another one of the same repository."""
    name = image.split(":")[0].split("@")[0]
    lines, replaced = [], 0
    for line in manifest.split("\n"):
        key = re.match("^ *image:", line)
        if key and re.sub("[',\"]", "", line[key.end() :].strip()).split(":")[0] == name:
            line = f"{key[0]} {image}"
            replaced += 1
        lines.append(line)
    assert replaced == 1, f"{replaced} images replaced"
    return "\n".join(lines)


def canary(deployment, percentage):
    """The Deployment beside the stable one."""
    made = copy.deepcopy(deployment)
    made["metadata"]["name"] += "-canary"
    label = {"workflow/version": "canary"}
    for holder in [made["metadata"], made["spec"]["template"]["metadata"]]:
        holder["labels"] = holder["labels"] | label
    made["spec"]["selector"]["matchLabels"] |= label
    made["spec"]["replicas"] = max(1, round(made["spec"]["replicas"] * percentage / 100))
    return made


def main(folder, *helms):
    """Both files, and what has to be true of them."""
    with open(".github/workflows/aks.yml", encoding="utf-8") as file:
        steps = yaml.safe_load(file)["jobs"]["release"]["steps"]
    actions = {step["uses"].split("@")[0]: step for step in steps if "uses" in step}
    given, applied = inputs(actions["azure/k8s-bake"]), inputs(actions["azure/k8s-deploy"])
    assert applied["images"] == IMAGE
    assert applied["manifests"] == "${{ steps.bake.outputs.manifestsBundle }}"
    assert (applied["strategy"], applied["traffic-split-method"]) == ("canary", "pod")
    manifests = [substitute(bake(helm, given), applied["images"]) for helm in helms]
    objects, *others = [[found for found in yaml.safe_load_all(made) if found] for made in manifests]
    assert all(other == objects for other in others), "Helm's versions differ"
    [stable] = [found for found in objects if found["kind"] == "Deployment"]
    [service] = [found for found in objects if found["kind"] == "Service"]
    beside = canary(stable, int(applied["percentage"]))
    selected = service["spec"]["selector"].items()
    for deployment in [stable, beside]:
        template = deployment["spec"]["template"]
        assert template["spec"]["containers"][0]["image"] == IMAGE
        assert selected <= template["metadata"]["labels"].items(), "the service leaves it out"
    # The workflow finds the canary by this name, and its commit in the image.
    assert beside["metadata"]["name"] == "roomcast-canary"
    # The page says: one canary pod, and with a baseline pod one connection in six.
    assert (stable["spec"]["replicas"], beside["spec"]["replicas"]) == (4, 1)
    pathlib.Path(folder, "stable.yaml").write_text(manifests[0], encoding="utf-8")
    pathlib.Path(folder, "canary.yaml").write_text(yaml.safe_dump(beside), encoding="utf-8")


main(*sys.argv[1:])
