//! `STATE_DIR`: a restarted server replays the history of the previous run, and claims no recovery.

use std::{fs, path::PathBuf, sync::Arc};

use roomcast::{
    Server,
    config::{Config, Settings},
};
use serde_json::{Value, json};

use crate::support::{Client, TestServer};

/// The path of a temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("roomcast-state-{}-{name}", std::process::id())))
    }

    fn settings(&self, settings: &mut Settings) {
        settings.state_dir = Some(self.0.display().to_string());
    }

    async fn site(&self) -> Arc<TestServer> {
        TestServer::start_with(|settings| self.settings(settings)).await
    }

    fn records(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("a folder");
        let mut records: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        records.sort();
        records
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn stopped(site: Arc<TestServer>) {
    site.stop();
    site.until("it has stopped", async || site.is_over()).await;
}

async fn published(site: &TestServer, payload: &str) {
    let before = site.metric("roomcast_messages_total").await;
    site.publish("device01", payload).await;
    site.until_metric("roomcast_messages_total", before + 1).await;
}

async fn last(site: &TestServer) -> Value {
    let mut client = Client::connect(site).await;
    let answer = client.ask(json!(["channel", "device01", {"last": 9}])).await;
    let mut payloads = Vec::new();
    for _ in 0..answer["replayed"].as_u64().expect("a number") {
        payloads.push(client.message().await);
    }
    json!(payloads)
}

#[tokio::test]
async fn history_survives_a_restart_without_claiming_recovery() {
    let folder = Folder::new("restart");
    let site = folder.site().await;
    let mut client = Client::connect(&site).await;
    let before = client.ask(json!(["channel", "device01", {"meta": true}])).await;
    published(&site, "a").await;
    site.publish("device02", [0xff, 0]).await;
    published(&site, "b").await;
    stopped(site).await;
    assert_eq!(client.rest().await, ["a", "b"]);

    let site = folder.site().await;
    let mut client = Client::connect(&site).await;
    let since = json!({"epoch": before["epoch"], "offset": 2});
    let options = json!({"meta": true, "since": since});
    let after = client.ask(json!(["channel", "device01", options])).await;
    // The position is that of the message in device02.
    assert_eq!((&after["recovered"], &after["replayed"]), (&json!(false), &json!(1)), "{after}");
    assert_ne!(after["epoch"], before["epoch"]);
    assert_eq!(client.event().await[0], "gap");
    assert_eq!(client.event().await[1], "b");
    client.ask(json!(["channel", "device01", {"meta": true, "last": 9}])).await;
    for (payload, offset) in [("a", 1), ("b", 3)] {
        let event = client.event().await;
        let place = json!([before["epoch"], offset]);
        assert_eq!(
            (&event[1], json!([event[2]["epoch"], event[2]["offset"]])),
            (&json!(payload), place)
        );
    }
    site.publish("device01", "c").await;
    let event = client.event().await;
    assert_eq!((&event[2]["epoch"], &event[2]["offset"]), (&after["epoch"], &json!(1)));

    client.send(r#"42["channel","device02",{"last":1}]"#).await;
    assert_eq!(client.packet().await, r#"451-["message",{"_placeholder":true,"num":0}]"#);
    assert_eq!(client.attachment().await.as_ref(), [0xff, 0]);
}

/// The head of a record of this format.
fn head(format: u32) -> Value {
    json!({"format": format, "instance": "x", "time": 1, "latest": 1, "epochs": []})
}

/// An entry of a record, of a message that arrived at this time, in ms since the Unix epoch.
fn entry(at: u64) -> Value {
    json!({"number": 1, "prev": 0, "epoch": "e", "base": 0, "at": at, "payload": "YQ=="})
}

/// The text of the only warning in a log.
fn told(log: &str) -> String {
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let warnings = lines.iter().filter(|line| line["level"] == "WARN");
    let texts: Vec<_> = warnings.filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(texts.len(), 1, "{log}");
    texts[0].to_owned()
}

#[tokio::test]
async fn an_unusable_record_is_logged_and_costs_only_the_history() {
    let message = entry(4_000_000_000_000);
    let line = json!({"room": "device01", "messages": [message]});
    let whole = |head: Value, rest: &str| format!("{head}\n{rest}\n\n# roomcast: whole\n");
    let cases = [
        ("usable", whole(head(3), &line.to_string()), ""),
        ("newer", whole(head(4), &line.to_string()), "written by a newer version (format 4"),
        ("earlier", whole(line.clone(), ""), "its first line names no format"),
        ("earlier format", whole(head(2), ""), "format 2 is not supported"),
        ("damaged", whole(head(3), "{\"room\": \"secret"), "it is unreadable (line"),
        ("truncated", format!("{}\n{line}", head(3)), "it is truncated"),
        ("empty", String::new(), "it is truncated"),
    ];
    for (name, record, expected) in cases {
        let folder = Folder::new(name);
        fs::create_dir_all(&folder.0).expect("a folder");
        fs::write(folder.0.join("history-00000001"), record).expect("written");
        let state_dir = folder.0.display().to_string();
        let (site, process) = TestServer::start_process(&[("STATE_DIR", &state_dir)]).await;
        let restored = if expected.is_empty() { json!(["a"]) } else { json!([]) };
        assert_eq!(last(&site).await, restored, "{name}");
        published(&site, "b").await;
        assert_eq!(last(&site).await.as_array().expect("an array").last(), Some(&json!("b")));
        assert_eq!(site.get("/status").await.0, 200, "{name}: it can be written");
        let log = process.stop().await;
        if !expected.is_empty() {
            let told = told(&log);
            assert!(told.starts_with("STATE_DIR: ") && told.contains(expected), "{name}: {told}");
            assert!(told.contains("history-00000001") && !told.contains("secret"), "{told}");
        }
    }
}

#[tokio::test]
async fn an_unfinished_record_leaves_the_previous_one_in_use() {
    let folder = Folder::new("unfinished");
    let site = folder.site().await;
    published(&site, "a").await;
    stopped(site).await;
    fs::write(folder.0.join("history-00000009"), "{\"format\":3,").expect("written");
    let site = folder.site().await;
    assert_eq!(last(&site).await, json!(["a"]));
}

#[tokio::test]
async fn a_record_is_used_once() {
    let folder = Folder::new("once");
    let state_dir = folder.0.display().to_string();
    let site = folder.site().await;
    published(&site, "a").await;
    stopped(site).await;

    let (site, process) = TestServer::start_process(&[("STATE_DIR", &state_dir)]).await;
    assert_eq!(last(&site).await, json!(["a"]));
    published(&site, "b").await;
    process.signal("KILL").await;
    process.end().await;

    let (site, process) = TestServer::start_process(&[("STATE_DIR", &state_dir)]).await;
    assert_eq!(last(&site).await, json!([]), "no history after a crash");
    process.told("the previous run").await;
    process.stop().await;
}

#[tokio::test]
async fn a_record_names_its_instance_and_time() {
    let folder = Folder::new("head");
    let site = folder.site().await;
    published(&site, "a").await;
    stopped(site).await;
    let heads = folder.records().into_iter().map(|record| {
        let record = fs::read_to_string(record).expect("a record");
        serde_json::from_str(record.lines().next().expect("a line")).expect("JSON")
    });
    let [start, end]: [Value; 2] =
        heads.collect::<Vec<_>>().try_into().expect("a record of the start and one of the end");
    assert_eq!((&start["format"], &start["start"]), (&json!(3), &json!(true)));
    assert_eq!((&end["format"], &end["start"]), (&json!(3), &json!(false)));
    assert_eq!(start["instance"], end["instance"]);
    assert!(start["time"].as_u64() <= end["time"].as_u64(), "{start} {end}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_is_not_writable_is_reported_at_the_start() {
    let site = TestServer::start_with(|settings| settings.state_dir = Some("/proc".into())).await;
    let (code, status) = site.get("/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((code, &status["ok"], &status["state"]["ok"]), (503, &json!(false), &json!(false)));
    let error = status["state"]["error"].as_str().expect("an error");
    assert!(error.contains("/proc/history-"), "{error}");
    assert_eq!(site.metric("roomcast_state_ok").await, 0);
    assert_eq!(site.metric("roomcast_state_writes_total{result=\"failed\"}").await, 1);
    assert_eq!(site.get("/readyz").await.0, 200, "viewers are still served");
}

#[tokio::test]
async fn messages_older_than_the_limit_are_not_restored() {
    let folder = Folder::new("old");
    fs::create_dir_all(&folder.0).expect("a folder");
    let message = entry(1);
    let line = json!({"room": "device01", "messages": [message]});
    let head = head(3);
    let record = format!("{head}\n{line}\n\n# roomcast: whole\n");
    fs::write(folder.0.join("history-00000001"), record).expect("written");
    let site = folder.site().await;
    assert_eq!(last(&site).await, json!([]));
    assert_eq!(site.metric("roomcast_history_bytes").await, 0);
}

#[tokio::test]
async fn a_folder_that_cannot_be_created_is_an_error_at_the_start() {
    let folder = Folder::new("file");
    fs::write(&folder.0, "in its place").expect("written");
    let mut settings = Settings {
        http_addr: "127.0.0.1:0".into(),
        admin_addr: "off".into(),
        redishost: Some("embedded:0".into()),
        ..Settings::default()
    };
    folder.settings(&mut settings);
    let server = Server::bind(Config::try_from(settings).expect("valid settings")).await;
    let error = format!("{:#}", server.err().expect("refused"));
    assert!(error.starts_with("STATE_DIR: cannot make "), "{error}");
    fs::remove_file(&folder.0).expect("removed");
}
