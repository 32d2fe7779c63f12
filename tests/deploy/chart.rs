//! The chart as Helm has rendered it for tests/deploy/values, into target/deploy/chart.

use serde_json::{Value, json};

use crate::files::{Environment, config, is_pinned, list, read, secrets, stage, text};

const SETS: [&str; 3] = ["trying", "public", "many"];

fn rendered(set: &str) -> Vec<Value> {
    let documents = read(&format!("target/deploy/chart/{set}.yaml"));
    serde_saphyr::from_multiple(&documents).expect("YAML")
}

fn of_kind(set: &str, kind: &str) -> Vec<Value> {
    rendered(set).into_iter().filter(|object| object["kind"] == kind).collect()
}

/// The server's own deployment.
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
fn every_pod_passes_the_standard_restricted() {
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
fn the_server_is_told_what_it_understands() {
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

#[test]
#[ignore = "needs helm: tests/run"]
fn secrets_come_from_a_secret() {
    for set in ["public", "many"] {
        assert_eq!(container(set)["envFrom"], json!([{ "secretRef": { "name": "roomcast" } }]));
        for variable in list(&container(set)["env"]) {
            assert!(!secrets().contains(&text(&variable["name"]).to_owned()), "{variable}");
        }
    }
}

#[test]
#[ignore = "needs helm: tests/run"]
fn probes_are_the_servers_own_commands() {
    for set in SETS {
        let command = |probe: &str| container(set)[probe]["exec"]["command"].take();
        assert_eq!(command("livenessProbe"), json!(["roomcast", "healthcheck"]));
        assert_eq!(command("readinessProbe"), json!(["roomcast", "healthcheck", "--ready"]));
    }
}

#[test]
#[ignore = "needs helm: tests/run"]
fn a_rollout_loses_nobody() {
    for set in SETS {
        assert_eq!(server(set)["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        let pause = container(set)["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
        let pause = pause.expect("seconds");
        let grace = config(&environment(set)).grace.as_secs();
        let given = pod(set)["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        // What an end after the grace takes: src/server.rs.
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
    assert_eq!(server("many").get("replicas"), None, "the autoscaler's to say");
    let scaler = &of_kind("many", "HorizontalPodAutoscaler")[0]["spec"];
    assert_eq!((&scaler["minReplicas"], &scaler["maxReplicas"]), (&json!(2), &json!(10)));
}

#[test]
#[ignore = "needs helm: tests/run"]
fn the_way_in_leads_to_the_server_and_stays() {
    for set in SETS {
        let selector = |object: &Value| object["spec"]["selector"].clone();
        let services = of_kind(set, "Service");
        assert!(services.iter().all(|service| service["spec"]["type"] == "ClusterIP"));
        let service = services.iter().find(|service| service["metadata"]["name"] == "roomcast");
        let service = service.expect("a service");
        assert_eq!(selector(service), server(set)["selector"]["matchLabels"]);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    }
    assert!(of_kind("trying", "Ingress").is_empty());
    let ingress = &of_kind("public", "Ingress")[0];
    let rule = &ingress["spec"]["rules"][0];
    let backend = &rule["http"]["paths"][0]["backend"]["service"];
    assert_eq!(*backend, json!({ "name": "roomcast", "port": { "name": "http" } }));
    assert_eq!(rule["host"], ingress["spec"]["tls"][0]["hosts"][0]);
    let annotation = |name: &str| {
        text(&ingress["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")])
            .to_owned()
    };
    assert_eq!(annotation("affinity"), "cookie");
    for timeout in ["proxy-read-timeout", "proxy-send-timeout"] {
        // Seconds; a viewer of a silent room says nothing but its heartbeats.
        assert!(annotation(timeout).parse::<u32>().expect("seconds") >= 3600);
    }
}
