//! STATE_DIR: a restart leaves no blank page, and claims nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use roomcast::{
    Server,
    config::{Config, Settings},
};
use serde_json::{Value, json};

use crate::support::{Client, Site};

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("roomcast-state-{}-{name}", std::process::id())))
    }

    fn settings(&self, settings: &mut Settings) {
        settings.state_dir = Some(self.0.display().to_string());
    }

    async fn site(&self) -> Arc<Site> {
        Site::start_with(|settings| self.settings(settings)).await
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

async fn stopped(site: Arc<Site>) {
    site.stop();
    site.until("it is over", async || site.is_over()).await;
}

async fn published(site: &Site, payload: &str) {
    let before = site.metric("roomcast_messages_total").await;
    site.publish("device01", payload).await;
    site.until_metric("roomcast_messages_total", before + 1).await;
}

async fn last(site: &Site) -> Value {
    let mut client = Client::connect(site).await;
    let answer = client.ask(json!(["channel", "device01", {"last": 9}])).await;
    let mut payloads = Vec::new();
    for _ in 0..answer["replayed"].as_u64().expect("a number") {
        payloads.push(client.message().await);
    }
    json!(payloads)
}

fn damage(path: &Path) {
    let mut content = fs::read(path).expect("a record");
    content[0] = b'?';
    fs::write(path, content).expect("written");
}

#[tokio::test]
async fn what_was_kept_is_there_again_but_no_recovery_is_claimed() {
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
    let wish = json!({"meta": true, "since": since, "last": 9});
    let after = client.ask(json!(["channel", "device01", wish])).await;
    assert_eq!((&after["recovered"], &after["replayed"]), (&json!(false), &json!(2)), "{after}");
    assert_ne!(after["epoch"], before["epoch"]);
    for (payload, offset) in [("a", 1), ("b", 2)] {
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

#[tokio::test]
async fn a_damaged_record_costs_no_more_than_the_history() {
    let folder = Folder::new("damaged");
    for payload in ["a", "b"] {
        let site = folder.site().await;
        published(&site, payload).await;
        stopped(site).await;
    }
    assert_eq!(folder.records().len(), 2);
    damage(&folder.records()[1]);
    let site = folder.site().await;
    assert_eq!(last(&site).await, json!(["a"]), "the one before is used");
    damage(&folder.records()[0]);
    let site = folder.site().await;
    assert_eq!(last(&site).await, json!([]));
    published(&site, "c").await;
    assert_eq!(last(&site).await, json!(["c"]));
}

#[tokio::test]
async fn what_has_become_too_old_meanwhile_is_forgotten() {
    let folder = Folder::new("old");
    fs::create_dir_all(&folder.0).expect("a folder");
    let message = json!({"epoch": "e", "offset": 1, "at": 1, "payload": "YQ=="});
    let line = json!({"room": "device01", "messages": [message]});
    let record = format!("{line}\n\n# roomcast: whole\n");
    fs::write(folder.0.join("history-00000001"), record).expect("written");
    let site = folder.site().await;
    assert_eq!(last(&site).await, json!([]));
    assert_eq!(site.metric("roomcast_history_bytes").await, 0);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_told_at_the_start() {
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
