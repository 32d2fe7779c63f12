//! A record of the history: JSON lines, first the [`Head`], then one line for each room.

use std::{fmt, io::Write, sync::Arc};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    position::{Epoch, Sequence},
    rooms::{Rooms, history::HistoryEntry},
};

/// The format that is written, and the only one that is read: a history is useful for minutes only,
/// so earlier formats need no support.
const FORMAT: u32 = 3;

/// The highest number that is read: browsers have no larger integers.
const LAST_NUMBER: u64 = 1 << 53;

/// A room's name and its history, oldest first.
pub type Past = (String, Vec<HistoryEntry>);

/// The first line of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The format of the lines that follow.
    format: u32,
    /// A random name of the process that wrote the record.
    pub instance: String,
    /// When it was written, in ms since the Unix epoch.
    pub time: u64,
    /// The record says only that the process has started: no rooms follow.
    #[serde(default)]
    pub start: bool,
    /// The number of the source's latest message.
    pub latest: u64,
    /// The known epochs, the oldest one first.
    epochs: Vec<SavedEpoch>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedEpoch {
    name: Arc<str>,
    base: u64,
    began: u64,
}

impl Head {
    /// The head of a record in the current format; `time` is in ms since the Unix epoch.
    pub fn new(instance: String, time: u64, start: bool, sequence: &Sequence) -> Self {
        let (latest, epochs) = (sequence.latest(), sequence.epochs());
        let epochs = epochs.iter().map(|epoch| SavedEpoch {
            name: epoch.name.clone(),
            base: epoch.base,
            began: epoch.began,
        });
        Self { format: FORMAT, instance, time, start, latest, epochs: epochs.collect() }
    }

    /// The epochs that were known.
    pub fn epochs(&self) -> Vec<Arc<Epoch>> {
        let epochs = self.epochs.iter().cloned();
        epochs
            .map(|SavedEpoch { name, base, began }| Arc::new(Epoch { name, base, began }))
            .collect()
    }
}

/// The part of a head that says whether this version can read the rest.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// Why a whole record cannot be used.
pub enum RecordError {
    /// Its format is newer than this version's.
    Newer(u32),
    /// It is damaged, has an earlier format, or was written by another program; with the reason.
    Unreadable(String),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(format) => write!(
                f,
                "it was written by a newer version (format {format}, this version reads {FORMAT})"
            ),
            Self::Unreadable(reason) => write!(f, "it is unreadable ({reason})"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    room: String,
    messages: Vec<Saved>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    number: u64,
    prev: u64,
    /// The name of its epoch, and the number at offset 0.
    epoch: Arc<str>,
    base: u64,
    at: u64,
    /// Base64.
    payload: String,
}

/// Writes a record to `out`.
///
/// # Errors
/// If `out` fails.
pub fn write(
    out: &mut dyn Write,
    head: &Head,
    rooms: impl Iterator<Item = (impl AsRef<str>, Vec<HistoryEntry>)>,
) -> anyhow::Result<()> {
    write_line(out, head)?;
    for (room, messages) in rooms {
        let messages = messages.into_iter().map(Saved::from).collect();
        write_line(out, &Line { room: room.as_ref().to_owned(), messages })?;
    }
    Ok(())
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    Ok(out.write_all(b"\n")?)
}

/// Reads a record.
///
/// # Errors
/// If any line cannot be read: half a history would have holes, so nothing of it is used.
pub fn parse(content: &[u8]) -> Result<(Head, Vec<Past>), RecordError> {
    let (head, rest) =
        content.split_at(content.iter().position(|&byte| byte == b'\n').unwrap_or(0));
    let unreadable = |error: serde_json::Error| RecordError::Unreadable(place(&error));
    let Versioned { format } = serde_json::from_slice(head)
        .map_err(|_| RecordError::Unreadable("its first line names no format".to_owned()))?;
    match format {
        FORMAT => {}
        format if format > FORMAT => return Err(RecordError::Newer(format)),
        format => return Err(RecordError::Unreadable(format!("format {format} is not supported"))),
    }
    let mut head: Head = serde_json::from_slice(head).map_err(unreadable)?;
    let epochs = head.epochs();
    let mut rooms = Vec::new();
    for line in serde_json::Deserializer::from_slice(rest).into_iter::<Line>() {
        let Line { room, messages } = line.map_err(unreadable)?;
        Rooms::check_name(&room).map_err(RecordError::Unreadable)?;
        let mut kept: Vec<HistoryEntry> = Vec::with_capacity(messages.len());
        for Saved { number, prev, epoch, base, at, payload } in messages {
            // All entries of an epoch share it.
            let last = kept.last().map(|last| &last.epoch);
            let known = last.into_iter().chain(&epochs).find(|known| known.name == epoch).cloned();
            let new = || Arc::new(Epoch { name: epoch, base, began: at });
            let epoch = known.unwrap_or_else(new);
            if kept.last().is_some_and(|last| last.number >= number) {
                return Err(RecordError::Unreadable("numbers do not rise".to_owned()));
            }
            // It may have arrived while the record was written.
            head.latest = head.latest.max(number);
            let payload = BASE64_STANDARD.decode(payload);
            let payload = payload
                .map_err(|_| RecordError::Unreadable("a payload is not base64".to_owned()))?;
            let payload = Bytes::from(payload);
            kept.push(HistoryEntry { number, prev, epoch, at, payload });
        }
        rooms.push((room, kept));
    }
    let are_bases_in_order = epochs.is_sorted_by(|one, next| one.base < next.base)
        && epochs.last().is_none_or(|last| last.base <= head.latest);
    if head.latest > LAST_NUMBER || !are_bases_in_order {
        return Err(RecordError::Unreadable("its numbers are out of range".to_owned()));
    }
    Ok((head, rooms))
}

/// The position of an error. The error's text is left out because it can quote the content.
fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

impl From<HistoryEntry> for Saved {
    fn from(kept: HistoryEntry) -> Self {
        let HistoryEntry { number, prev, epoch, at, payload } = kept;
        let payload = BASE64_STANDARD.encode(payload);
        Self { number, prev, epoch: epoch.name.clone(), base: epoch.base, at, payload }
    }
}
