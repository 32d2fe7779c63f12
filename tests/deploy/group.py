"""multi.yaml against Azure's own model of a container group.

Its library drops keys that it does not know and does not miss those that are required; so the model
is read here, key by key.
"""

import copy
import re
import sys

import yaml
from azure.core.credentials import AzureKeyCredential
from azure.mgmt.containerinstance import ContainerInstanceManagementClient, models

# Nothing is asked over this client: it only tells of which version of the API the model is.
VERSION = ContainerInstanceManagementClient(AzureKeyCredential("-"), "-")._config.api_version
PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool}


def problems(value, kind, where):
    """What is wrong with a value that has to be of a kind, such as `[Container]`."""
    if many := re.fullmatch(r"\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [p for i, item in enumerate(value) for p in problems(item, many[1], f"{where}[{i}]")]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{where}: {value!r} is no {kind}"]
    model = getattr(models, kind)
    if not isinstance(value, dict):
        return [f"{where}: no mapping"]
    found, known = [], set()
    for attribute, entry in model._attribute_map.items():
        # properties.containers is containers inside of properties.
        path = entry["key"].split(".")
        known.update(".".join(path[:end]) for end in range(1, len(path) + 1))
        inner = value
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        rule = model._validation.get(attribute, {})
        if inner is not None:
            found += problems(inner, entry["type"], f"{where}.{entry['key']}")
        elif rule.get("required"):
            found.append(f"{where}.{entry['key']}: missing")
    return found + [f"{where}.{key}: unknown" for key in keys(value, known) if key not in known]


def keys(value, known, prefix=""):
    """The keys of a mapping, and of those inside it that belong to the same model."""
    for key, inner in value.items():
        path = prefix + key
        yield path
        if isinstance(inner, dict) and any(name.startswith(path + ".") for name in known):
            yield from keys(inner, known, path + ".")


def check(group):
    """All that is wrong with a group."""
    group = dict(group)
    version = group.pop("apiVersion", None)
    wrong = [] if version == VERSION else [f"apiVersion: {version!r} is not {VERSION!r}"]
    return wrong + problems(group, "ContainerGroup", "group")


def broken(group):
    """Copies of the group, each with one mistake that has to be found."""
    for mistake in (
        lambda g: g["properties"].pop("osType"),
        lambda g: g["properties"]["containers"][0]["properties"].pop("resources"),
        lambda g: g["properties"].update(restartPolcy="Always"),
        lambda g: g["properties"]["ipAddress"]["ports"][0].update(port="80"),
        lambda g: g["properties"]["containers"][0]["properties"]["livenessProbe"].update(path="/"),
        lambda g: g.update(apiVersion="2018-10-01"),
    ):
        copied = copy.deepcopy(group)
        mistake(copied)
        yield copied


with open(sys.argv[1], encoding="utf-8") as file:
    GROUP = yaml.safe_load(file)
for mistaken in broken(GROUP):
    assert check(mistaken), "a mistake was not found"
if wrong := check(GROUP):
    sys.exit("\n".join(wrong))
print(f"{sys.argv[1]}: as Azure's API has it")
