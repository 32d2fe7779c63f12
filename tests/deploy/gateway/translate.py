"""Makes envoy.yaml: what Envoy Gateway tells Envoy about resources.yaml, as one static file.

    go install github.com/envoyproxy/gateway/cmd/egctl@v1.9.1     takes ten minutes of CPU time
    tests/deploy/gateway/translate.py EGCTL

Run it by hand when the chart's route changes; a test compares the route with resources.yaml. Taken out is
what is for a cluster (access logs, the readiness port), replaced is where instances and routes come from.
"""

import json
import pathlib
import subprocess
import sys

import yaml

FOLDER = pathlib.Path(__file__).parent
INSTANCES = ["127.0.0.2", "127.0.0.3"]
HEAD = "# Made by translate.py. The ports in capitals are put in by the test.\n"


def translated(egctl):
    """The resources of Envoy, by type."""
    command = [egctl, "experimental", "translate", "--from", "gateway-api", "--to", "xds"]
    command += ["--output", "json", "--file", str(FOLDER / "resources.yaml")]
    made = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    [dumps] = made["xds"].values()
    return {dump["@type"].rpartition(".")[2]: dump for dump in dumps["configs"]}


def static(dumps):
    """One configuration of them all."""
    listeners = dumps["ListenersConfigDump"]["dynamicListeners"]
    [listener] = [
        found["activeState"]["listener"]
        for found in listeners
        if "ready" not in found["activeState"]["listener"]["name"]
    ]
    [route] = dumps["RoutesConfigDump"]["dynamicRouteConfigs"]
    [cluster] = dumps["ClustersConfigDump"]["dynamicActiveClusters"]
    listener.pop("accessLog", None)
    listener["address"]["socketAddress"] = {"address": "127.0.0.1", "portValue": "OUTSIDE_PORT"}
    [http] = [found["typedConfig"] for found in listener["defaultFilterChain"]["filters"]]
    http.pop("accessLog", None)
    del http["rds"]
    http["routeConfig"] = route["routeConfig"]
    for host in http["routeConfig"]["virtualHosts"]:
        for found in host["routes"]:
            if "redirect" in found:
                found["redirect"]["portRedirect"] = "OUTSIDE_PORT"
    cluster = cluster["cluster"]
    del cluster["edsClusterConfig"]
    cluster["type"] = "STATIC"
    [locality] = dumps["EndpointsConfigDump"]["dynamicEndpointConfigs"][0]["endpointConfig"]["endpoints"]
    locality["lbEndpoints"] = [
        {"endpoint": {"address": {"socketAddress": {"address": address, "portValue": "INSTANCE_PORT"}}}}
        for address in INSTANCES
    ]
    for message in [listener, http["routeConfig"], cluster]:
        del message["@type"]  # known by their places
    cluster["loadAssignment"] = {"clusterName": cluster["name"], "endpoints": [locality]}
    return {"staticResources": {"listeners": [listener], "clusters": [cluster]}}


CONFIG = static(translated(sys.argv[1]))
(FOLDER / "envoy.yaml").write_text(HEAD + yaml.safe_dump(CONFIG, width=100), encoding="utf-8")
