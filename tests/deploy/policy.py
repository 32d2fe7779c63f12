"""Kyverno itself on the policy: it lets the chart's pods through, and refuses each bad one.

    policy.py POLICY RENDERING...

A bad pod breaks one rule, in one kind of container, and is refused with that rule's message.
"""

import copy
import json
import subprocess
import sys
import tempfile

import yaml

LABEL = {"app.kubernetes.io/name": "roomcast"}
KINDS = ["containers", "initContainers", "ephemeralContainers"]
# Fields that these kinds of container do not have, or do not need.
LACKS = {"initContainers": ["livenessProbe", "readinessProbe", "lifecycle", "ports"]}
LACKS["ephemeralContainers"] = [*LACKS["initContainers"], "resources"]


def security(**fields):
    """Sets fields of a security context, or removes those that are None."""

    def change(holder):
        context = holder.setdefault("securityContext", {})
        context.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del context[name]

    return change


def fields(**values):
    """Sets fields."""
    return lambda holder: holder.update(values)


def without(name):
    """Removes a field."""
    return lambda holder: holder.pop(name)


def volume(**source):
    """A volume of one source."""
    return fields(volumes=[{"name": "extra", **source}])


# A part of the rule's message, and what breaks it: in a container of every kind, ...
IN_ANY_CONTAINER = [
    ("ordinary user", security(runAsNonRoot=False)),
    ("ordinary user", security(runAsUser=0)),
    ("seccomp", security(seccompProfile={"type": "Unconfined"})),
    ("capabilities", security(capabilities=None)),
    ("capabilities", security(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]})),
    ("gain privileges", security(allowPrivilegeEscalation=None)),
    ("gain privileges", security(allowPrivilegeEscalation=True)),
    ("is privileged", security(privileged=True)),
    ("is privileged", security(procMount="Unmasked")),
    ("is privileged", security(windowsOptions={"hostProcess": True})),
    ("AppArmor", security(appArmorProfile={"type": "Unconfined"})),
    ("AppArmor", security(seLinuxOptions={"type": "spc_t"})),
    ("read-only", security(readOnlyRootFilesystem=None)),
    ("read-only", security(readOnlyRootFilesystem=False)),
    ("port of the host", fields(ports=[{"containerPort": 80, "hostPort": 80}])),
    ("other than latest", fields(image="roomcast")),
    ("other than latest", fields(image="registry:5000/roomcast")),
    ("other than latest", fields(image="roomcast:latest")),
]
# ... in one that lasts, ...
IN_LASTING = [("memory limit", without("resources"))]
# ... in the pod's own containers, ...
IN_CONTAINERS = [
    ("alive and ready", without("livenessProbe")),
    ("alive and ready", without("readinessProbe")),
]
# ... and in the pod.
IN_POD = [
    ("ordinary user", security(runAsNonRoot=None)),
    ("ordinary user", security(runAsUser=None)),
    ("ordinary user", without("securityContext")),
    ("seccomp", security(seccompProfile=None)),
    ("is privileged", security(windowsOptions={"hostProcess": True})),
    ("AppArmor", security(appArmorProfile={"type": "Unconfined"})),
    ("AppArmor", security(seLinuxOptions={"user": "system_u"})),
    ("AppArmor", security(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("namespace of the host", fields(hostNetwork=True)),
    ("namespace of the host", fields(hostPID=True)),
    ("namespace of the host", fields(hostIPC=True)),
    ("never the host's", volume(hostPath={"path": "/"})),
    ("never the host's", volume(nfs={"server": "nfs.example.com", "path": "/"})),
    ("token for the API", without("automountServiceAccountToken")),
    ("token for the API", fields(automountServiceAccountToken=True)),
    ("token for the API", volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]})),
]


def pod_of(deployment):
    """Its pod, with a container of every kind."""
    template = copy.deepcopy(deployment["spec"]["template"])
    spec = template["spec"]
    for kind in KINDS[1:]:
        spec[kind] = [copy.deepcopy(spec["containers"][0]) | {"name": kind.lower()}]
        for name in LACKS[kind]:
            spec[kind][0].pop(name, None)
    metadata = template["metadata"] | {"name": "good"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def broken(good):
    """Bad pods, by name, each with a part of the message that it has to be refused with."""
    cases = [(rule, None, change) for rule, change in IN_POD]
    parts = [(KINDS, IN_ANY_CONTAINER), (KINDS[:2], IN_LASTING), (KINDS[:1], IN_CONTAINERS)]
    for kinds, changes in parts:
        cases += [(rule, kind, change) for kind in kinds for rule, change in changes]
    for number, (rule, kind, change) in enumerate(cases):
        pod = copy.deepcopy(good)
        change(pod["spec"][kind][0] if kind else pod["spec"])
        pod["metadata"]["name"] = f"bad-{number}-{(kind or 'pod').lower()}"
        yield pod, rule


def judge(policy, resources):
    """What Kyverno says of each, by kind and name: "pass", or the message of the refusal."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(resources, file)
        file.flush()
        command = ["kyverno", "apply", policy, "--resource", file.name, "--continue-on-fail"]
        command += ["--policy-report", "--output-format", "json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1, done.stdout + done.stderr
    verdicts = {}
    for result in json.loads(lines[0])["results"]:
        said = "pass" if result["result"] == "pass" else result["message"]
        assert result["result"] in ("pass", "fail"), result
        verdicts |= {(found["kind"], found["name"]): said for found in result["resources"]}
    return verdicts


def check(policy, path):
    """One rendering: what it has passes, and each bad pod made of it fails as it should."""
    with open(path, encoding="utf-8") as file:
        objects = [found for found in yaml.safe_load_all(file) if found]
    deployments = [found for found in objects if found["kind"] == "Deployment"]
    [server] = [found for found in deployments if LABEL.items() <= found["metadata"]["labels"].items()]
    good = pod_of(server)
    bad = list(broken(good))
    # A Deployment is judged by its template.
    careless = copy.deepcopy(server)
    careless["metadata"]["name"] = "careless"
    careless["spec"]["template"]["spec"]["hostPID"] = True
    verdicts = judge(policy, [*objects, good, careless, *(pod for pod, _ in bad)])
    assert verdicts["Deployment", server["metadata"]["name"]] == "pass", verdicts
    assert verdicts["Pod", "good"] == "pass", verdicts["Pod", "good"]
    assert "namespace of the host" in verdicts["Deployment", "careless"], verdicts
    for pod, rule in bad:
        said = verdicts["Pod", pod["metadata"]["name"]]
        assert rule in said, f"{pod['metadata']['name']}: {said!r} instead of {rule!r}"
    # Nothing else is judged.
    assert len(verdicts) == len(bad) + 3, sorted(verdicts)
    return [rule for _, rule in bad]


POLICY, *PATHS = sys.argv[1:]
TRIED = [check(POLICY, path) for path in PATHS]
with open(POLICY, encoding="utf-8") as source:
    for validation in yaml.safe_load(source)["spec"]["validations"]:
        assert any(rule in validation["message"] for rule in TRIED[0]), validation["message"]
print(f"{POLICY}: {len(TRIED)} renderings pass, {sum(map(len, TRIED))} bad pods are refused")
