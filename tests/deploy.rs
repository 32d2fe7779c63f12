//! The deployment files agree with the server about settings, ports and commands.

use std::process::Command;

use roomcast::config::CertificateSource;
use serde_json::{Value, json};

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/files.rs"]
mod files;
#[path = "deploy/identity.rs"]
mod identity;
#[path = "deploy/valkey.rs"]
mod valkey;

use files::{Environment, config, dockerfile, is_pinned, list, read, secrets, stage, text, yaml};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REDIS: u64 = 6379;

fn multi() -> Value {
    yaml("multi.yaml")["properties"].take()
}

/// The properties of one container of the Azure container group.
fn member(name: &str) -> Value {
    let named = |container: &&Value| container["name"] == name;
    let group = multi();
    list(&group["containers"]).iter().find(named).expect("a container")["properties"].clone()
}

fn ports(value: &Value) -> Vec<u64> {
    let port = |port: &Value| port["port"].as_u64().expect("a whole number, not a text");
    list(value).iter().map(port).collect()
}

fn group_environment() -> Environment {
    let mut environment = stage("aci").environment();
    for variable in list(&member("roomcast")["environmentVariables"]) {
        let value = variable.get("value").or(variable.get("secureValue"));
        let value = text(value.expect("a value")).to_owned();
        environment.insert(text(&variable["name"]).to_owned(), value);
    }
    environment
}

#[test]
fn the_image_runs_a_static_binary_as_an_unprivileged_user() {
    let stages = dockerfile();
    let build = stages.first().expect("a stage").last("RUN");
    for part in ["--locked", "--profile dist", "--target", "+crt-static", "--mount=type=cache"] {
        assert!(build.contains(part), "{part}: {build}");
    }
    let last = stages.last().expect("a stage");
    assert_eq!((last.name.as_str(), last.last("USER")), ("final", "65532:65532"));
    assert_eq!(stage("image").base, "scratch");
    for stage in [last, &stage("aci")] {
        assert_eq!(stage.base, "image");
        assert_eq!(stage.last("ENTRYPOINT"), r#"["roomcast"]"#);
    }
}

#[test]
fn both_targets_listen_on_the_ports_that_they_expose() {
    let (ordinary, root) = (stage("final"), stage("aci"));
    let port = |environment| u64::from(config(&environment).http_addr.port);
    assert_eq!(ordinary.ports(), [port(ordinary.environment())]);
    assert_eq!(root.last("USER"), "0:0");
    let config = config(&group_environment());
    let https = config.https.expect("HTTPS").addr.port;
    assert_eq!(root.ports(), [u64::from(config.http_addr.port), u64::from(https)]);
}

#[test]
fn health_checks_use_the_healthcheck_command() {
    let command = json!(["roomcast", "healthcheck"]);
    let check = stage("final").last("HEALTHCHECK").to_owned();
    let (_, asked) = check.split_once("CMD ").expect("a command");
    assert_eq!(serde_json::from_str::<Value>(asked).expect("exec form"), command);
    let server = member("roomcast");
    assert_eq!(server["livenessProbe"]["exec"]["command"], command);
    assert_eq!(server.get("readinessProbe"), None, "Azure would block validation requests");
    let known =
        Command::new(env!("CARGO_BIN_EXE_roomcast")).args(["healthcheck", "--help"]).output();
    assert!(known.expect("it runs").status.success());
}

#[test]
fn the_group_exposes_only_the_server() {
    let (group, server, redis) = (multi(), member("roomcast"), member("redis"));
    let public = ports(&group["ipAddress"]["ports"]);
    assert_eq!(public, stage("aci").ports());
    assert_eq!(ports(&server["ports"]), public);
    assert!(ports(&redis["ports"]).is_empty());
    let command: Vec<_> = list(&redis["command"]).iter().map(text).collect();
    for option in [["--bind", "127.0.0.1"], ["--save", ""], ["--appendonly", "no"]] {
        assert!(command.windows(2).any(|words| words == option), "{option:?}: {command:?}");
    }
    assert!(command.contains(&"--maxmemory"));
}

#[test]
fn the_group_stores_its_certificates_on_the_share() {
    let server = member("roomcast");
    let image = &stage("aci").environment()["CERT_DIR"];
    assert_eq!(server["volumeMounts"][0]["mountPath"], **image);
    assert_eq!(server["volumeMounts"][0]["name"], multi()["volumes"][0]["name"]);
    let https = config(&group_environment()).https.expect("HTTPS");
    let CertificateSource::Acme(acme) = https.certificate else { panic!("no ACME") };
    assert_eq!(acme.store.to_str(), Some(image.as_str()));
}

#[test]
fn the_group_runs_the_target_aci() {
    let task = yaml("deploy/acr.yaml");
    let image = format!("$Registry/roomcast:{VERSION}-aci");
    assert_eq!(task["steps"][0]["build"], format!("--target aci --tag {image} ."));
    assert_eq!(task["steps"][1]["push"], json!([image]));
    assert_eq!(member("roomcast")["image"], image.replace("$Registry", "REGISTRY.azurecr.io"));
    assert_eq!(multi()["imageRegistryCredentials"][0]["server"], "REGISTRY.azurecr.io");
    assert!(read("README.md").contains("az acr run --registry $REGISTRY --file deploy/acr.yaml ."));
}

#[test]
fn secrets_of_the_group_are_secure_values() {
    let secrets = secrets();
    assert!(secrets.contains(&"REDIS_PASSWORD".to_owned()));
    let server = member("roomcast");
    for variable in list(&server["environmentVariables"]) {
        let name = text(&variable["name"]);
        let is_secret = secrets.iter().any(|secret| secret == name);
        assert_eq!(variable.get("secureValue").is_some(), is_secret, "{name}");
    }
}

#[test]
fn the_chart_refuses_secrets_among_its_settings() {
    let schema = read("deploy/helm/roomcast/values.schema.json");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let refused = &schema["properties"]["settings"]["propertyNames"]["not"]["anyOf"][0]["pattern"];
    let (ends, _) = text(refused).trim_start_matches('(').split_once(")$").expect("endings");
    for secret in secrets().iter().filter(|secret| {
        !["REDISHOST", "REDIS_PUBLISH_HOST", "HTTPREQ_ENDPOINT"].contains(&secret.as_str())
    }) {
        assert!(ends.split('|').any(|end| secret.ends_with(end)), "{secret} may stand in settings");
    }
}

#[test]
fn compose_publishes_both_ports_on_loopback_only() {
    let services = yaml("deploy/compose.yaml")["services"].take();
    let server = &services["roomcast"];
    let mut environment = stage("final").environment();
    let own = server["environment"].as_object().expect("variables");
    environment.extend(own.iter().map(|(name, value)| (name.clone(), text(value).to_owned())));
    let config = config(&environment);
    assert_eq!(server["ports"], json!([format!("127.0.0.1:8080:{}", config.http_addr.port)]));
    assert_eq!(services["redis"]["ports"], json!([format!("127.0.0.1:{REDIS}:{REDIS}")]));
    assert_eq!(server["build"]["target"], "final");
    let stop = text(&server["stop_grace_period"]).trim_end_matches('s').parse::<u64>();
    assert!(stop.expect("seconds") > config.grace.as_secs());
}

#[test]
fn every_image_is_pinned_to_a_version() {
    let mut services = yaml("deploy/compose.yaml")["services"].take();
    let images = services.as_object().expect("services").values().map(|service| &service["image"]);
    let group = multi();
    let members = list(&group["containers"]).iter().map(|member| &member["properties"]["image"]);
    let mut images: Vec<_> = images.chain(members).map(|image| text(image).to_owned()).collect();
    images.push(stage("build").base);
    assert_eq!(images.len(), 5);
    for image in &images {
        assert!(is_pinned(image), "{image}");
    }
    assert!(!is_pinned("redis") && !is_pinned("redis:latest") && !is_pinned("redis:7"));
    // The README and both deployments name the same Redis image.
    let redis = services["redis"]["image"].take();
    let brought = format!("--source docker.io/library/{0} --image {0}", text(&redis));
    assert!(read("README.md").contains(&brought), "{brought}");
    // The chart bundles Valkey instead; tests run the same version from a Python package.
    let bundled = yaml("deploy/helm/roomcast/values.yaml")["redis"]["image"].take();
    assert!(is_pinned(text(&bundled)), "{bundled}");
    let version = text(&bundled).trim_start_matches("docker.io/valkey/valkey:");
    let version = version.trim_end_matches("-alpine");
    let tried = read("tests/deploy/requirements.txt");
    assert!(tried.contains(&format!("\nvalkeylite=={version}")), "{version}");
    assert_eq!(text(&member("redis")["image"]), format!("REGISTRY.azurecr.io/{}", text(&redis)));
}
