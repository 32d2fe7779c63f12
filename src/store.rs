//! A folder of records that outlive the process (certificates, account keys, back-off, history):
//! every record is a new file, the newest usable one counts.
//!
//! The folder may lie on an SMB share, where rename is not atomic, modes and locks do nothing and
//! names ignore case. So nothing is renamed, overwritten or locked: a record is written under a
//! number that was never used, read back and compared before it counts, and ends with a line that
//! tells a whole file from one whose writer was killed.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use ring::digest::{Context, Digest, SHA256};
use tracing::warn;

/// Ends every record; PEM readers skip it.
const WHOLE: &[u8] = b"\n# roomcast: whole\n";
/// Records of a kind that are kept: the newest, and the one before, should the newest be damaged.
const KEPT: usize = 2;
/// Numbers to try when others write at the same time.
const ATTEMPTS: u64 = 16;
/// Bytes of a record, unless more are expected: a chain of certificates has 4 to 8 thousand.
const MAX_RECORD: u64 = 1 << 20;
/// Bytes that are read back at once.
const PIECE: usize = 64 << 10;

/// A folder; it may come and go, and be slow: its calls block.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    max_record: u64,
}

/// A record's file.
struct Found {
    number: u64,
    path: PathBuf,
}

impl Store {
    /// In a folder that is made when it is first used.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, max_record: MAX_RECORD }
    }

    /// With records of up to so many bytes.
    pub fn with_records_of(self, max_record: u64) -> Self {
        Self { max_record, ..self }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All usable records of a kind, the newest first. None means that there certainly is none: a
    /// folder or a record that cannot be read is an error, unless an older record is usable.
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
                warn!("{error:#}; another record is used");
                Ok(usable)
            }
            None => Ok(usable),
        }
    }

    /// All records of a kind, the newest first.
    pub fn records(&self, kind: &str) -> anyhow::Result<Vec<PathBuf>> {
        Ok(self.find(kind)?.into_iter().map(|found| found.path).collect())
    }

    /// What one of them holds.
    pub fn load(&self, path: &Path) -> io::Result<Content> {
        read_whole(path, self.max_record)
    }

    /// Removes all records of a kind.
    pub fn clear(&self, kind: &str) -> anyhow::Result<()> {
        for path in self.records(kind)? {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes a record that the next reader will find, and removes those that are too old.
    pub fn write(&self, kind: &str, content: &[u8]) -> anyhow::Result<()> {
        self.write_with(kind, |out| Ok(out.write_all(content)?))
    }

    /// The same for a content that is made while it is written: it may be as large as the memory
    /// that is left.
    pub fn write_with(
        &self,
        kind: &str,
        fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let older = self.find(kind)?;
        let next = older.first().map_or(1, |found| found.number + 1);
        let (path, file) = self.create(kind, next)?;
        if let Err(error) = write_and_compare(&path, file, fill) {
            // Unfinished, it counts for nobody; it is only in the way.
            let _ = fs::remove_file(&path);
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        // The entry in the folder, where the system can: on others it is on the disk already.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        for found in older.iter().skip(KEPT - 1) {
            if let Err(error) = fs::remove_file(&found.path) {
                warn!("cannot remove {}: {error}", found.path.display());
            }
        }
        Ok(())
    }

    /// The kinds of records that are there and begin like this. None if the folder is not there.
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
        bail!("others write to {} all the time", self.folder.display())
    }

    /// The files of a kind, the newest first.
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

    /// Makes the folder if it is not there.
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

/// Tries whether a folder, or the one in which it would be made, takes records: one is written and
/// taken away again. Blocks.
pub fn try_folder(folder: &Path) -> anyhow::Result<()> {
    let folder = std::path::absolute(folder)?;
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(&folder);
    let (path, file) = Store::new(there.to_owned()).create("trial", 1)?;
    let written = write_and_compare(&path, file, |_| Ok(()));
    let removed = fs::remove_file(&path);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// What a record's file holds.
pub enum Content {
    /// A record, without its last line.
    Whole(Vec<u8>),
    /// The beginning of one that was never finished.
    Truncated,
    /// Nothing any more: another process has removed it.
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
        same.map_err(|error| anyhow!("cannot be read back: {error}"))?,
        "reads back differently"
    );
    Ok(())
}

/// A file, and the digest of what is written to it.
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

/// In pieces, as it was written.
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
