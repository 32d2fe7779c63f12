//! History over a restart: what all rooms keep is written at the end of a drain and read at the
//! start, so that nobody looks at an empty page.
//!
//! Nothing is claimed across the restart: the messages keep their old positions, the rooms begin a
//! new epoch, and who asks with `since` hears that the recovery failed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    broker::now,
    history::{Kept, Position},
    rooms::Rooms,
    store::Store,
};

/// The kind of record in the store.
const HISTORY: &str = "history";
/// What is written may be so many times as large as what was kept: base64, and offsets as text.
const WRITTEN: u64 = 4;

/// How long a start waits for the folder: it may be a share whose server is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the history outlives the process.
pub struct Snapshot {
    store: Store,
}

/// A room as it is written: one line of JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    room: String,
    /// Oldest first.
    messages: Vec<Saved>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    position: Position,
    at: u64,
    /// Base64.
    payload: String,
}

impl Snapshot {
    /// In a folder, which is made; of a history of at most so many bytes.
    pub fn new(folder: PathBuf, bytes: usize) -> anyhow::Result<Self> {
        let store = Store::new(folder).with_records_of((bytes as u64).saturating_mul(WRITTEN));
        store.make().with_context(|| format!("cannot make {}", store.folder().display()))?;
        Ok(Self { store })
    }

    /// Gives the rooms what the last process has written; returns how many messages that were.
    pub async fn restore(&self, rooms: &Rooms) -> anyhow::Result<usize> {
        let store = self.store.clone();
        let read = spawn_blocking(move || store.read(HISTORY, parse));
        let read = timeout(READ_TIMEOUT, read).await.context("no answer")???;
        let newest = read.into_iter().next().unwrap_or_default();
        let count = newest.iter().map(|(_, messages)| messages.len()).sum();
        newest.into_iter().for_each(|(room, kept)| rooms.restore(&room, kept));
        rooms.expire(now());
        Ok(count)
    }

    /// Writes what the rooms keep.
    pub async fn write(self, rooms: Arc<Rooms>) -> anyhow::Result<()> {
        spawn_blocking(move || {
            let mut content = Vec::new();
            for (room, messages) in rooms.kept() {
                let messages = messages.into_iter().map(Saved::from).collect();
                serde_json::to_writer(&mut content, &Line { room: room.to_string(), messages })?;
                content.push(b'\n');
            }
            self.store.write(HISTORY, &content)
        })
        .await?
    }
}

/// Whole or not at all: half a history would have holes.
fn parse(content: &[u8]) -> anyhow::Result<Vec<(String, Vec<Kept>)>> {
    let mut rooms = Vec::new();
    for line in serde_json::Deserializer::from_slice(content).into_iter::<Line>() {
        let Line { room, messages } = line?;
        Rooms::check_name(&room).map_err(|problem| anyhow!(problem))?;
        let mut kept: Vec<Kept> = Vec::with_capacity(messages.len());
        for Saved { mut position, at, payload } in messages {
            // One string for a whole run, as before.
            if let Some(last) = kept.last().filter(|last| last.position.epoch == position.epoch) {
                position.epoch = last.position.epoch.clone();
            }
            let payload = Bytes::from(BASE64_STANDARD.decode(payload)?);
            kept.push(Kept { position, at, payload });
        }
        rooms.push((room, kept));
    }
    Ok(rooms)
}

impl From<Kept> for Saved {
    fn from(kept: Kept) -> Self {
        let payload = BASE64_STANDARD.encode(kept.payload);
        Self { position: kept.position, at: kept.at, payload }
    }
}
