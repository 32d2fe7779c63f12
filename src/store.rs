//! A folder of records that outlive the process: certificates, account keys, back-off, history.
//! Each write creates a new file, and readers use the newest record that is usable.
//!
//! The folder may be on an SMB share, where rename is not atomic, file modes and locks have no
//! effect, and names are case-insensitive. The store therefore never renames, overwrites or locks a
//! file. It writes each record under a number higher than all existing ones, then reads the file
//! back and compares it before the write counts as successful. A record ends with a marker line: a
//! file without it is incomplete, because its writer was killed or is still writing.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use ring::digest::{Context, Digest, SHA256};
use tracing::warn;

/// The marker line that ends every complete record. PEM parsers ignore it.
const WHOLE: &[u8] = b"\n# roomcast: whole\n";
/// Records kept per kind: the newest one, and the previous one in case the newest is damaged.
const KEPT: usize = 2;
/// Numbers to try when other processes create records of the same kind at the same time.
const ATTEMPTS: u64 = 16;
/// Default size limit of a record in bytes. A certificate chain has 4,000 to 8,000.
const MAX_RECORD: u64 = 1 << 20;
/// Buffer size in bytes for reading a record back.
const PIECE: usize = 64 << 10;

/// Records in one folder, which may be slow or temporarily unavailable.
///
/// A `Store` holds only the path and the size limit, so clones are cheap and refer to the same
/// folder. Every method that accesses the folder blocks; async code uses `StoreCalls`.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    max_record: u64,
}

/// A record's file and the number in its name.
struct Found {
    number: u64,
    path: PathBuf,
}

impl Store {
    /// Uses `folder`, which is created by the first access to its records.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, max_record: MAX_RECORD }
    }

    /// Sets the size limit of a record, in bytes; reading a larger one is an error.
    pub fn with_records_of(self, max_record: u64) -> Self {
        Self { max_record, ..self }
    }

    /// The path of the folder, which may not exist yet.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads all usable records of a kind, newest first: complete ones that `parse` accepts.
    /// Incomplete files are skipped. An empty result means that the folder certainly holds no
    /// complete record of this kind.
    ///
    /// # Errors
    ///
    /// The folder cannot be created or read, or no record is usable and at least one cannot be read
    /// or parsed. If another record is usable, the problem is only logged.
    pub fn read<T>(
        &self,
        kind: &str,
        parse: impl Fn(&[u8]) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let (mut usable, mut problem) = (Vec::new(), None);
        for path in self.records(kind)? {
            let name = || format!("cannot use {}", path.display());
            match self.load(&path) {
                Ok(Content::Gone | Content::Truncated) => {}
                Ok(Content::Whole(content)) => match parse(&content).with_context(name) {
                    Ok(record) => usable.push(record),
                    Err(error) => problem = Some(error),
                },
                Err(error) => problem = Some(anyhow::Error::new(error).context(name())),
            }
        }
        match problem {
            Some(error) if usable.is_empty() => Err(error),
            Some(error) => {
                warn!("{error:#}; another record is used instead");
                Ok(usable)
            }
            None => Ok(usable),
        }
    }

    /// Lists the files of a kind, newest first, including incomplete ones. Creates the folder if it
    /// does not exist.
    pub fn records(&self, kind: &str) -> anyhow::Result<Vec<PathBuf>> {
        Ok(self.find(kind)?.into_iter().map(|found| found.path).collect())
    }

    /// Reads one of the files that [`records`](Self::records) lists. A file larger than the size
    /// limit is an error.
    pub fn load(&self, path: &Path) -> io::Result<Content> {
        read_whole(path, self.max_record)
    }

    /// Removes all records of a kind, and stops at the first that cannot be removed.
    pub fn clear(&self, kind: &str) -> anyhow::Result<()> {
        for path in self.records(kind)? {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes a record as the newest of its kind, verifies it, and removes all but the newest two.
    ///
    /// # Errors
    ///
    /// The file cannot be created, written or synced, or its content differs when it is read back.
    /// The older records are then unchanged. A failure to remove old records is only logged.
    pub fn write(&self, kind: &str, content: &[u8]) -> anyhow::Result<()> {
        self.write_with(kind, |out| Ok(out.write_all(content)?))
    }

    /// Like [`write`](Self::write), but `fill` generates the content while it is written. Use it
    /// for content that is too large for a second copy in memory.
    pub fn write_with(
        &self,
        kind: &str,
        fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let older = self.find(kind)?;
        let next = older.first().map_or(1, |found| found.number + 1);
        let (path, file) = self.create(kind, next)?;
        if let Err(error) = write_and_compare(&path, file, fill) {
            // Readers skip an incomplete file; removing it frees its space.
            let _ = fs::remove_file(&path);
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        // Sync the folder's new entry. Systems that cannot sync a folder have already stored it.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        for found in older.iter().skip(KEPT - 1) {
            if let Err(error) = fs::remove_file(&found.path) {
                warn!("cannot remove {}: {error}", found.path.display());
            }
        }
        Ok(())
    }

    /// The kinds that have at least one file and start with `beginning`; empty if the folder does
    /// not exist.
    pub fn kinds(&self, beginning: &str) -> anyhow::Result<BTreeSet<String>> {
        let list = || {
            let mut kinds = BTreeSet::new();
            for entry in fs::read_dir(&self.folder)? {
                let name = entry?.file_name().to_string_lossy().to_lowercase();
                if let Some((kind, number)) = name.rsplit_once('-')
                    && kind.starts_with(beginning)
                    && number.parse::<u64>().is_ok()
                {
                    kinds.insert(kind.to_owned());
                }
            }
            io::Result::Ok(kinds)
        };
        match list() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            kinds => kinds.with_context(|| format!("cannot read {}", self.folder.display())),
        }
    }

    fn create(&self, kind: &str, next: u64) -> anyhow::Result<(PathBuf, File)> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        for number in next..next + ATTEMPTS {
            let path = self.folder.join(format!("{kind}-{number:08}"));
            match options.open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot write {}", path.display()));
                }
            }
        }
        bail!("cannot write {}: other processes keep creating records", self.folder.display())
    }

    /// The files of a kind, newest first.
    fn find(&self, kind: &str) -> anyhow::Result<Vec<Found>> {
        self.make().with_context(|| format!("cannot make {}", self.folder.display()))?;
        let list = || {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
                let number = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
                if let Some(number) = number.and_then(|number| number.parse().ok()) {
                    found.push(Found { number, path });
                }
            }
            found.sort_by_key(|found| std::cmp::Reverse(found.number));
            io::Result::Ok(found)
        };
        list().with_context(|| format!("cannot read {}", self.folder.display()))
    }

    /// Creates the folder and its parents if needed; on Unix with mode 0700.
    pub fn make(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.folder)
    }
}

/// Checks that records can be written to a folder, or to the nearest existing ancestor in which it
/// would be created. Writes an empty record, verifies it and removes it. Blocks.
pub fn try_folder(folder: &Path) -> anyhow::Result<()> {
    let folder = std::path::absolute(folder)?;
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(&folder);
    let (path, file) = Store::new(there.to_owned()).create("trial", 1)?;
    let written = write_and_compare(&path, file, |_| Ok(()));
    let removed = fs::remove_file(&path);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// The content of a record's file.
pub enum Content {
    /// A complete record, without the marker line.
    Whole(Vec<u8>),
    /// An incomplete record: its marker line is missing.
    Truncated,
    /// The file does not exist any more: another process has removed it.
    Gone,
}

fn read_whole(path: &Path, max: u64) -> io::Result<Content> {
    let read = || match fs::metadata(path)?.len() {
        length if length > max => Err(ErrorKind::FileTooLarge.into()),
        _ => fs::read(path),
    };
    match read() {
        Ok(mut content) if content.ends_with(WHOLE) => {
            content.truncate(content.len() - WHOLE.len());
            Ok(Content::Whole(content))
        }
        Ok(_) => Ok(Content::Truncated),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Content::Gone),
        Err(error) => Err(error),
    }
}

fn write_and_compare(
    path: &Path,
    file: File,
    fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut out = Digesting { out: BufWriter::new(file), digest: Context::new(&SHA256) };
    fill(&mut out)?;
    out.write_all(WHOLE)?;
    out.flush()?;
    out.out.get_ref().sync_all()?;
    let written = out.digest.finish();
    drop(out.out);
    let same = digest_of(path).map(|read| read.as_ref() == written.as_ref());
    ensure!(
        same.map_err(|error| anyhow!("it cannot be read back: {error}"))?,
        "the content that was read back differs from what was written"
    );
    Ok(())
}

/// Writes to a file and computes the SHA-256 of what it writes.
struct Digesting {
    out: BufWriter<File>,
    digest: Context,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The SHA-256 of a file, read in pieces so that a large record does not need a copy in memory.
fn digest_of(path: &Path) -> io::Result<Digest> {
    let (mut file, mut digest) = (File::open(path)?, Context::new(&SHA256));
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digest.finish()),
            length => digest.update(&piece[..length]),
        }
    }
}

#[cfg(test)]
mod tests;
