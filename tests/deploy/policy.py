"""The policy against Kyverno's own model, and its rules against the chart as it is rendered.

Each rule holds for every pod of Roomcast, and breaks when what it demands is taken away.
"""

import copy
import sys

import celpy
import yaml
from cloudcoil.models.kyverno.v1 import ClusterPolicy

MISTAKES = {
    "ordinary user": lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
    "seccomp": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "capabilities": lambda _, container: container["securityContext"].pop("capabilities"),
    "read-only": lambda _, container: container["securityContext"].pop("readOnlyRootFilesystem"),
    "loosens": lambda _, container: container["securityContext"].update(privileged=True),
    "token": lambda pod, _: pod.pop("automountServiceAccountToken"),
    "latest": lambda _, container: container.update(image="roomcast:latest"),
    "is ready": lambda _, container: container.pop("readinessProbe"),
    "memory": lambda _, container: container["resources"].pop("limits"),
}


def known(found, written, where="policy"):
    """Fails on a key that the model has dropped."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in found, f"{where}.{key} is unknown to Kyverno"
            known(found[key], value, f"{where}.{key}")
    elif isinstance(written, list):
        for index, value in enumerate(written):
            known(found[index], value, f"{where}[{index}]")
    else:
        assert found == written, f"{where}: {found!r} instead of {written!r}"


def holds(rule, pod):
    """Whether an expression in CEL is true for a pod."""
    environment = celpy.Environment()
    program = environment.program(environment.compile(rule["expression"]))
    return bool(program.evaluate({"object": celpy.json_to_cel({"spec": pod})}))


def check(rule, pod):
    """That a rule holds for a pod, and not without what it is about."""
    [mistake] = [act for word, act in MISTAKES.items() if word in rule["message"]]
    assert holds(rule, pod), rule["message"]
    broken = copy.deepcopy(pod)
    mistake(broken, broken["containers"][0])
    assert not holds(rule, broken), f"holds for everything: {rule['message']}"


with open(sys.argv[1], encoding="utf-8") as file:
    POLICY = yaml.safe_load(file)
known(ClusterPolicy.model_validate(POLICY).model_dump(by_alias=True, mode="json"), POLICY)
[confined] = POLICY["spec"]["rules"]
labels = confined["match"]["any"][0]["resources"]["selector"]["matchLabels"]
rules = confined["validate"]["cel"]["expressions"]
assert len(rules) == len(MISTAKES)
for path in sys.argv[2:]:
    with open(path, encoding="utf-8") as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    templates = [d["spec"]["template"] for d in documents if d["kind"] == "Deployment"]
    pods = [t["spec"] for t in templates if labels.items() <= t["metadata"]["labels"].items()]
    assert pods, f"{path} has no pod that the policy is about"
    for pod in pods:
        for rule in rules:
            check(rule, pod)
print(f"{sys.argv[1]}: {len(rules)} rules hold for {len(sys.argv) - 2} renderings")
