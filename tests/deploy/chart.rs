//! The Helm chart, as rendered with each file of tests/deploy/values into target/deploy/chart.

use serde_json::{Value, json};

use crate::files::{Environment, config, is_pinned, list, read, secrets, stage, text};

const SETS: [&str; 4] = ["trying", "public", "many", "gateway"];
/// The path of a prefix for ingress-nginx, and for controllers that read its annotations.
const PREFIX_OF_NGINX: (&str, &str) = ("/rt(/|$)(.*)", "ImplementationSpecific");

fn rendered(set: &str) -> Vec<Value> {
    let documents = read(&format!("target/deploy/chart/{set}.yaml"));
    serde_saphyr::from_multiple(&documents).expect("YAML")
}

pub fn of_kind(set: &str, kind: &str) -> Vec<Value> {
    rendered(set).into_iter().filter(|object| object["kind"] == kind).collect()
}

/// The `spec` of the server's Deployment.
fn server(set: &str) -> Value {
    let own = |object: &Value| object["metadata"]["name"] == "roomcast";
    of_kind(set, "Deployment").into_iter().find(own).expect("a deployment")["spec"].take()
}

fn pod(set: &str) -> Value {
    server(set)["template"]["spec"].take()
}

fn container(set: &str) -> Value {
    pod(set)["containers"][0].take()
}

fn environment(set: &str) -> Environment {
    let mut environment = stage("final").environment();
    for variable in list(&container(set)["env"]) {
        environment.insert(text(&variable["name"]).to_owned(), text(&variable["value"]).to_owned());
    }
    environment
}

#[test]
#[ignore = "needs helm: tests/run"]
fn every_pod_meets_the_restricted_pod_security_standard() {
    for pod in SETS.iter().flat_map(|set| of_kind(set, "Deployment")) {
        let pod = &pod["spec"]["template"]["spec"];
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["seccompProfile"], json!({ "type": "RuntimeDefault" }));
        assert_eq!(pod["automountServiceAccountToken"], false);
        for forbidden in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"] {
            assert_eq!(pod.get(forbidden), None, "{forbidden}");
        }
        for container in list(&pod["containers"]) {
            let confined = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(container["securityContext"], confined);
            assert!(is_pinned(text(&container["image"])), "{}", container["image"]);
            assert!(list(&container["ports"]).iter().all(|port| port.get("hostPort").is_none()));
        }
    }
}

#[test]
#[ignore = "needs helm: tests/run"]
fn the_environment_is_a_valid_configuration_with_the_declared_ports() {
    for set in SETS {
        let config = config(&environment(set));
        let ports: Vec<_> = list(&container(set)["ports"]).to_vec();
        assert_eq!(ports[0], json!({ "name": "http", "containerPort": config.http_addr.port }));
        let admin = config.admin_addr.expect("an admin listener");
        let shown =
            admin.host.is_none().then(|| json!({ "name": "admin", "containerPort": admin.port }));
        assert_eq!(ports.get(1), shown.as_ref(), "{set}");
    }
    let channels = config(&environment("public")).channels;
    assert_eq!(channels, ["device*", "job*"]);
    assert!(environment("trying")["REDISHOST"].starts_with("roomcast-redis:"));
}

/// The host of the ingress or the route, and the names of the Service inside the cluster.
#[test]
#[ignore = "needs helm: tests/run"]
fn hosts_contains_all_names_that_lead_to_the_server() {
    assert!(config(&environment("trying")).allowed_hosts.is_empty(), "no host name is known");
    let route = of_kind("gateway", "HTTPRoute")[0]["spec"]["hostnames"][0].take();
    let ingress = |set| of_kind(set, "Ingress")[0]["spec"]["rules"][0]["host"].take();
    for (set, public) in
        [("public", ingress("public")), ("many", ingress("many")), ("gateway", route)]
    {
        let hosts = config(&environment(set)).allowed_hosts;
        for host in [text(&public), "roomcast", "roomcast.default.svc.cluster.local"] {
            assert!(hosts.iter().any(|known| known == host), "{set}: {host} in {hosts:?}");
        }
    }
}

#[test]
#[ignore = "needs helm: tests/run"]
fn secrets_come_from_a_kubernetes_secret() {
    for set in ["public", "many", "gateway"] {
        assert_eq!(container(set)["envFrom"], json!([{ "secretRef": { "name": "roomcast" } }]));
        for variable in list(&container(set)["env"]) {
            assert!(!secrets().contains(&text(&variable["name"]).to_owned()), "{variable}");
        }
    }
}

#[test]
#[ignore = "needs helm: tests/run"]
fn probes_use_the_healthcheck_command() {
    for set in SETS {
        let command = |probe: &str| container(set)[probe]["exec"]["command"].take();
        assert_eq!(command("livenessProbe"), json!(["roomcast", "healthcheck"]));
        assert_eq!(command("readinessProbe"), json!(["roomcast", "healthcheck", "--ready"]));
    }
}

#[test]
#[ignore = "needs helm: tests/run"]
fn a_rollout_drains_every_pod() {
    for set in SETS {
        assert_eq!(server(set)["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        let pause = container(set)["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
        let pause = pause.expect("seconds");
        let grace = config(&environment(set)).grace.as_secs();
        let given = pod(set)["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        // The exit may take 4 s after the grace: src/server.rs.
        assert!(given >= pause + grace + 4, "{set}: {given} for {pause} and {grace}");
        assert_eq!(of_kind(set, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 1);
    }
    assert_eq!(config(&environment("many")).grace.as_secs(), 120);
}

#[test]
#[ignore = "needs helm: tests/run"]
fn one_instance_unless_asked_for_more() {
    for set in ["trying", "public"] {
        assert_eq!(server(set)["replicas"], 1);
        assert!(of_kind(set, "HorizontalPodAutoscaler").is_empty());
    }
    for set in ["many", "gateway"] {
        assert_eq!(server(set).get("replicas"), None, "{set}: an autoscaler sets it");
    }
    assert!(of_kind("gateway", "HorizontalPodAutoscaler").is_empty(), "KEDA creates one itself");
}

#[test]
#[ignore = "needs helm: tests/run"]
fn the_autoscaler_counts_connections_and_removes_pods_slowly() {
    let scaler = &of_kind("many", "HorizontalPodAutoscaler")[0]["spec"];
    assert_eq!((&scaler["minReplicas"], &scaler["maxReplicas"]), (&json!(2), &json!(10)));
    let metric = json!({
        "type": "Pods",
        "pods": {
            "metric": { "name": "roomcast_connections" },
            "target": { "type": "AverageValue", "averageValue": "2000" },
        },
    });
    assert_eq!(scaler["metrics"], json!([metric]));
    assert!(read("src/metrics.rs").contains(r#"new.one("connections","#));
    let down = &scaler["behavior"]["scaleDown"];
    let pause = down["policies"][0]["periodSeconds"].as_u64().expect("seconds");
    assert_eq!(down["policies"], json!([{ "type": "Pods", "value": 1, "periodSeconds": pause }]));
    assert!(pause > config(&environment("many")).grace.as_secs());
    assert!(down["stabilizationWindowSeconds"].as_u64().expect("seconds") >= 1800);
}

#[test]
#[ignore = "needs helm: tests/run"]
fn service_and_ingress_lead_to_the_server_with_affinity() {
    for set in SETS {
        let selector = |object: &Value| object["spec"]["selector"].clone();
        let services = of_kind(set, "Service");
        assert!(services.iter().all(|service| service["spec"]["type"] == "ClusterIP"));
        let service = services.iter().find(|service| service["metadata"]["name"] == "roomcast");
        let service = service.expect("a service");
        assert_eq!(selector(service), server(set)["selector"]["matchLabels"]);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    }
    for set in ["trying", "gateway"] {
        assert!(of_kind(set, "Ingress").is_empty());
    }
    let ingress = &of_kind("public", "Ingress")[0];
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
    assert_eq!(of_kind("many", "Ingress")[0]["spec"].get("ingressClassName"), None);
    let rule = &ingress["spec"]["rules"][0];
    let path = &rule["http"]["paths"][0];
    assert_eq!((text(&path["path"]), text(&path["pathType"])), PREFIX_OF_NGINX);
    let backend = json!({ "name": "roomcast", "port": { "name": "http" } });
    assert_eq!(path["backend"]["service"], backend);
    assert_eq!(rule["host"], ingress["spec"]["tls"][0]["hosts"][0]);
    assert_eq!(
        ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/affinity"],
        "cookie"
    );
}

#[test]
#[ignore = "needs helm: tests/run"]
fn the_route_strips_its_prefix_and_never_times_out() {
    assert!(of_kind("public", "HTTPRoute").is_empty());
    let route = &of_kind("gateway", "HTTPRoute")[0]["spec"];
    let gateway = json!({ "name": "public", "namespace": "gateways", "sectionName": "https" });
    assert_eq!(route["parentRefs"], json!([gateway]));
    assert_eq!(route["hostnames"], json!(["rt.example.com"]));
    let [to_slash, all] = list(&route["rules"]) else { panic!("{route}") };
    assert_eq!(to_slash["matches"][0]["path"], json!({ "type": "Exact", "value": "/rt" }));
    let redirect = &to_slash["filters"][0]["requestRedirect"]["path"];
    assert_eq!(redirect["replaceFullPath"], "/rt/");
    assert_eq!(all["matches"][0]["path"], json!({ "type": "PathPrefix", "value": "/rt" }));
    let rewrite = &all["filters"][0]["urlRewrite"]["path"];
    assert_eq!(rewrite["replacePrefixMatch"], "/");
    assert_eq!(all["timeouts"], json!({ "request": "0s" }));
    let service = of_kind("gateway", "Service")[0].take();
    let port = &service["spec"]["ports"][0]["port"];
    assert_eq!(all["backendRefs"], json!([{ "name": "roomcast", "port": port }]));
}

#[test]
#[ignore = "needs helm: tests/run"]
fn the_bundled_valkey_accepts_only_the_pods_of_the_server() {
    let labels = |name: &str| {
        let named = |object: &Value| object["metadata"]["name"] == name;
        let deployment = of_kind("trying", "Deployment").into_iter().find(named);
        deployment.expect("a deployment")["spec"]["template"]["metadata"]["labels"].take()
    };
    let policy = &of_kind("trying", "NetworkPolicy")[0]["spec"];
    assert_eq!(policy["podSelector"]["matchLabels"], labels("roomcast-redis"));
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy.get("egress"), None, "no outgoing connections");
    let [from] = list(&policy["ingress"]) else { panic!("{policy}") };
    assert_eq!(from["ports"], json!([{ "protocol": "TCP", "port": 6379 }]));
    let [peer] = list(&from["from"]) else { panic!("{from}") };
    let selected = peer["podSelector"]["matchLabels"].as_object().expect("labels");
    let server = labels("roomcast");
    assert!(selected.iter().all(|(name, value)| server[name] == *value), "{selected:?}");
    assert!(selected.len() >= 2, "only pods of this release");
    for set in ["public", "many", "gateway"] {
        assert!(of_kind(set, "NetworkPolicy").is_empty(), "{set}");
    }
}
