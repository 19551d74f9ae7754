//! The program of backups: it runs in a container that has a volume and a folder of the host, writes the
//! volume into an archive, or puts the content of an archive into the volume.
//!
//! An archive is a plain tar file, which `tar` reads too. It has its name only once it is complete. A restore
//! first writes the present content of the volume into another archive. Then it unpacks beside that
//! content, and exchanges both: if it ends earlier, the volume is as it was.
//!
//! `build.rs` compiles this file without any dependency.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

const BLOCK: usize = 512;
/// The longest name in a header; a longer name precedes it in a separate entry.
const LONGEST_NAME: usize = 100;
/// The longest name that is read.
const LONGEST_READ: u64 = 64 * 1024;
/// Folders in the volume while it is restored: the content to be, and the previous content.
const FRESH: &str = ".abide-restore-new";
const OLD: &str = ".abide-restore-old";
/// What an archive never holds: the standard library does not read it.
const NOT_KEPT: &str = "without extended attributes, capabilities and ACLs";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["back-up", volume, folder, name, prefix, keep] => {
            back_up(Path::new(volume), Path::new(folder), name, prefix, keep.parse().unwrap_or(0))
        }
        ["restore", volume, folder, name, safety] => {
            restore(Path::new(volume), Path::new(folder), name, safety)
        }
        _ => Err("unknown arguments".to_owned()),
    };
    match done {
        Ok(sentence) => println!("{sentence}"),
        Err(why) => {
            println!("error: {why}");
            std::process::exit(1);
        }
    }
}

/// Adds the place to an error.
fn at(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// Writes the volume into the archive `name`, and removes all but the newest `keep` archives whose names
/// continue `prefix` with a digit; zero keeps all.
fn back_up(volume: &Path, folder: &Path, name: &str, prefix: &str, keep: usize) -> Result<String, String> {
    let written = write_archive(volume, folder, name)?;
    let mut removed = 0;
    if keep > 0 {
        let is_ours = |name: &String| {
            let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".tar"));
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let entries = fs::read_dir(folder).map_err(at(folder))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(is_ours).collect();
        names.sort_unstable();
        for old in names.iter().take(names.len().saturating_sub(keep)) {
            fs::remove_file(folder.join(old)).map_err(at(&folder.join(old)))?;
            removed += 1;
        }
    }
    let removed = if removed > 0 { format!(", removed {removed} old ones") } else { String::new() };
    Ok(format!("backed up {written} into {name}, {NOT_KEPT}{removed}"))
}

/// Returns how much was written, for a sentence.
fn write_archive(volume: &Path, folder: &Path, name: &str) -> Result<String, String> {
    let partial = folder.join(format!(".{name}.partial"));
    // Of an earlier run that was killed, or a link, which must not be followed.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&partial)(error)),
        _ => {}
    }
    let file = File::create_new(&partial).map_err(at(&partial))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(at(&partial))?;
    let mut archive =
        ArchiveWriter { out: BufWriter::new(file), links: HashMap::new(), entries: 0, bytes: 0 };
    let written = archive.folder(volume, Path::new("")).and_then(|()| archive.finish(&partial));
    if let Err(why) = written {
        let _ = fs::remove_file(&partial);
        return Err(why);
    }
    fs::rename(&partial, folder.join(name)).map_err(at(&partial))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    Ok(format!("{} entries, {} bytes", archive.entries, archive.bytes))
}

struct ArchiveWriter {
    out: BufWriter<File>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    entries: u64,
    bytes: u64,
}

impl ArchiveWriter {
    /// Adds a folder, and everything in it by name. The volume itself is `.`.
    fn folder(&mut self, path: &Path, name: &Path) -> Result<(), String> {
        let seen = fs::symlink_metadata(path).map_err(at(path))?;
        let shown = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        self.header(shown, b'5', 0, None, &seen).map_err(at(path))?;
        let entries = fs::read_dir(path).map_err(at(path))?;
        let mut entries: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        entries.sort_unstable();
        for entry in entries {
            if entry != FRESH && entry != OLD {
                self.entry(&path.join(&entry), &name.join(&entry))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<(), String> {
        let seen = match fs::symlink_metadata(path) {
            Ok(seen) => seen,
            // The program in the container removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(path)(error)),
        };
        let kind = seen.file_type();
        if kind.is_dir() {
            return self.folder(path, name);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(at(path))?;
            return self.header(name, b'2', 0, Some(&target), &seen).map_err(at(path));
        }
        if !kind.is_file() {
            println!("left out {}: neither a file nor a folder nor a link", name.display());
            return Ok(());
        }
        if seen.nlink() > 1 {
            if let Some(first) = self.links.get(&(seen.dev(), seen.ino())).cloned() {
                return self.header(name, b'1', 0, Some(&first), &seen).map_err(at(path));
            }
            self.links.insert((seen.dev(), seen.ino()), name.to_owned());
        }
        self.content(path, name, &seen).map_err(at(path))
    }

    /// Adds exactly as many bytes as the header names, also if the file changes its length meanwhile.
    fn content(&mut self, path: &Path, name: &Path, seen: &Metadata) -> io::Result<()> {
        let file = File::open(path)?;
        self.header(name, b'0', seen.len(), None, seen)?;
        let copied = io::copy(&mut file.take(seen.len()), &mut self.out)?;
        io::copy(&mut io::repeat(0).take(seen.len() - copied), &mut self.out)?;
        self.bytes += seen.len();
        self.pad(seen.len())
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let rest = (BLOCK as u64 - length % BLOCK as u64) % BLOCK as u64;
        io::copy(&mut io::repeat(0).take(rest), &mut self.out).map(drop)
    }

    fn header(
        &mut self,
        name: &Path,
        kind: u8,
        size: u64,
        link: Option<&Path>,
        seen: &Metadata,
    ) -> io::Result<()> {
        let mut name = name.as_os_str().as_bytes().to_vec();
        if kind == b'5' {
            name.push(b'/');
        }
        let link = link.map(|link| link.as_os_str().as_bytes().to_vec()).unwrap_or_default();
        for (text, long) in [(&name, b'L'), (&link, b'K')] {
            if text.len() > LONGEST_NAME {
                let mut block = Header::new(b"././@LongLink", long, text.len() as u64 + 1);
                self.out.write_all(block.sealed())?;
                self.out.write_all(text)?;
                self.out.write_all(&[0])?;
                self.pad(text.len() as u64 + 1)?;
            }
        }
        let mut block = Header::new(&name, kind, size);
        block.text(157, LONGEST_NAME, &link);
        block.number(100, 8, u64::from(seen.mode() & 0o7777));
        block.number(108, 8, seen.uid().into());
        block.number(116, 8, seen.gid().into());
        block.number(136, 12, u64::try_from(seen.mtime()).unwrap_or(0));
        self.entries += 1;
        self.out.write_all(block.sealed())
    }

    fn finish(&mut self, path: &Path) -> Result<(), String> {
        let ended = self.out.write_all(&[0; 2 * BLOCK]).and_then(|()| self.out.flush());
        ended.and_then(|()| self.out.get_ref().sync_all()).map_err(at(path))
    }
}

/// A header block of a tar file.
struct Header([u8; BLOCK]);

impl Header {
    fn new(name: &[u8], kind: u8, size: u64) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0, LONGEST_NAME, name);
        for (place, length) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
            header.number(place, length, 0);
        }
        header.number(124, 12, size);
        header.0[156] = kind;
        header.text(257, 8, b"ustar  \0");
        header
    }

    fn text(&mut self, place: usize, length: usize, text: &[u8]) {
        let length = length.min(text.len());
        self.0[place..place + length].copy_from_slice(&text[..length]);
    }

    /// Octal digits, or binary for numbers that have too many.
    fn number(&mut self, place: usize, length: usize, number: u64) {
        let octal = format!("{number:0width$o}", width = length - 1);
        if octal.len() < length {
            self.text(place, length, octal.as_bytes());
        } else {
            self.0[place..place + length].fill(0);
            self.0[place] = 0x80;
            self.0[place + length - 8 + usize::from(length == 8)..place + length]
                .copy_from_slice(&number.to_be_bytes()[usize::from(length == 8)..]);
        }
    }

    fn sum(&self) -> u64 {
        let bytes = self.0.iter().enumerate();
        bytes.map(|(place, byte)| if (148..156).contains(&place) { 32 } else { u64::from(*byte) }).sum()
    }

    fn sealed(&mut self) -> &[u8] {
        let sum = format!("{:06o}\0 ", self.sum());
        self.text(148, 8, sum.as_bytes());
        &self.0
    }

    fn field(&self, place: usize, length: usize) -> &[u8] {
        let field = &self.0[place..place + length];
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(length)]
    }

    fn value(&self, place: usize, length: usize) -> Option<u64> {
        if self.0[place] & 0x80 != 0 {
            let bytes = self.0[place + 1..place + length].iter();
            return Some(bytes.fold(0, |value, byte| value << 8 | u64::from(*byte)));
        }
        u64::from_str_radix(String::from_utf8_lossy(self.field(place, length)).trim(), 8).ok()
    }
}

/// An entry of an archive.
struct ArchiveEntry {
    name: PathBuf,
    link: PathBuf,
    kind: u8,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: u64,
}

/// Reads the next entry up to its content; `None`: the end.
fn next_entry(archive: &mut impl Read) -> Result<Option<ArchiveEntry>, String> {
    let (mut long_name, mut long_link) = (None, None);
    loop {
        let mut block = [0; BLOCK];
        archive.read_exact(&mut block).map_err(|_| "the archive is cut off".to_owned())?;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let header = Header(block);
        let broken = || "the archive is damaged".to_owned();
        if header.value(148, 8) != Some(header.sum()) {
            return Err(broken());
        }
        let number = |place, length| header.value(place, length).ok_or_else(broken);
        let (kind, size) = (header.0[156], number(124, 12)?);
        if matches!(kind, b'L' | b'K') {
            if size > LONGEST_READ {
                return Err(broken());
            }
            let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
            archive.read_exact(&mut text).map_err(|_| "the archive is cut off".to_owned())?;
            skip(archive, padding(size))?;
            text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
            *(if kind == b'L' { &mut long_name } else { &mut long_link }) = Some(text);
            continue;
        }
        let text = |long: Option<Vec<u8>>, place| {
            PathBuf::from(std::ffi::OsString::from_vec(
                long.unwrap_or_else(|| header.field(place, LONGEST_NAME).to_vec()),
            ))
        };
        let narrow = |value: u64| u32::try_from(value).map_err(|_| broken());
        return Ok(Some(ArchiveEntry {
            name: text(long_name, 0),
            link: text(long_link, 157),
            kind,
            size,
            mode: narrow(number(100, 8)?)? & 0o7777,
            uid: narrow(number(108, 8)?)?,
            gid: narrow(number(116, 8)?)?,
            modified: number(136, 12)?,
        }));
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn skip(archive: &mut impl Read, length: u64) -> Result<(), String> {
    let skipped = io::copy(&mut archive.take(length), &mut io::sink()).map_err(|error| error.to_string())?;
    if skipped == length { Ok(()) } else { Err("the archive is cut off".to_owned()) }
}

/// Puts the content of the archive `name` into the volume. The present content is first written into the
/// archive `safety`.
fn restore(volume: &Path, folder: &Path, name: &str, safety: &str) -> Result<String, String> {
    let path = folder.join(name);
    read_archive(&path, |_, _| Ok(()))?;
    let kept = write_archive(volume, folder, safety)?;
    println!("kept the present content ({kept}) in {safety}");
    let fresh = volume.join(FRESH);
    for leftover in [&fresh, &volume.join(OLD)] {
        match fs::remove_dir_all(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(leftover)(error)),
            _ => {}
        }
    }
    fs::create_dir(&fresh).map_err(at(&fresh))?;
    let unpacked = unpack(&path, &fresh);
    let entries = match unpacked {
        Ok(entries) => entries,
        Err(why) => {
            let _ = fs::remove_dir_all(&fresh);
            return Err(format!("{why}; the volume is as it was"));
        }
    };
    exchange(volume)?;
    Ok(format!("restored {entries} entries from {name}, {NOT_KEPT}"))
}

/// Moves the previous content away and the new content to its place.
fn exchange(volume: &Path) -> Result<(), String> {
    let (fresh, old) = (volume.join(FRESH), volume.join(OLD));
    fs::create_dir(&old).map_err(at(&old))?;
    let mut moves = Vec::new();
    for (from, to) in [(volume, old.as_path()), (fresh.as_path(), volume)] {
        for entry in fs::read_dir(from).map_err(at(from))?.flatten() {
            let name = entry.file_name();
            if name != FRESH && name != OLD {
                moves.push((from.join(&name), to.join(&name)));
            }
        }
    }
    for (from, to) in moves {
        fs::rename(&from, &to).map_err(at(&from))?;
    }
    // The volume's own rights are those of the archive's first entry.
    let seen = fs::metadata(&fresh).map_err(at(&fresh))?;
    chown(volume, Some(seen.uid()), Some(seen.gid())).map_err(at(volume))?;
    fs::set_permissions(volume, seen.permissions()).map_err(at(volume))?;
    for folder in [&fresh, &old] {
        fs::remove_dir_all(folder).map_err(at(folder))?;
    }
    File::open(volume).and_then(|volume| volume.sync_all()).map_err(at(volume))
}

/// Calls `take` for each entry, with its content. Returns the number of entries.
fn read_archive(
    path: &Path,
    mut take: impl FnMut(&ArchiveEntry, &mut dyn Read) -> Result<(), String>,
) -> Result<u64, String> {
    let mut archive = BufReader::new(File::open(path).map_err(at(path))?);
    let mut entries = 0;
    while let Some(entry) = next_entry(&mut archive).map_err(|why| format!("{}: {why}", path.display()))? {
        if !matches!(entry.kind, b'0' | 0 | b'1' | b'2' | b'5') {
            return Err(format!("{} is of a kind that abide does not write", entry.name.display()));
        }
        let is_safe = |path: &Path| {
            path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        };
        if !is_safe(&entry.name) || entry.kind == b'1' && !is_safe(&entry.link) {
            return Err(format!("{} leads out of the volume", entry.name.display()));
        }
        let mut content = (&mut archive).take(entry.size);
        take(&entry, &mut content)?;
        let left = content.limit();
        skip(&mut archive, left + padding(entry.size)).map_err(|why| format!("{}: {why}", path.display()))?;
        entries += 1;
    }
    Ok(entries)
}

fn unpack(path: &Path, target: &Path) -> Result<u64, String> {
    // The times and rights of folders come last: unpacking changes the times, and a folder may be read-only.
    let mut folders = Vec::new();
    let entries = read_archive(path, |entry, content| {
        let place = target.join(&entry.name);
        match entry.kind {
            b'5' => {
                fs::create_dir_all(&place).map_err(at(&place))?;
                folders.push((place, entry.uid, entry.gid, entry.mode, entry.modified));
                return Ok(());
            }
            b'2' => symlink(&entry.link, &place).map_err(at(&place))?,
            b'1' => return fs::hard_link(target.join(&entry.link), &place).map_err(at(&place)),
            _ => {
                // An earlier entry of the archive may be a link of that name.
                let mut file = File::create_new(&place).map_err(at(&place))?;
                let copied = io::copy(content, &mut file).map_err(at(&place))?;
                if copied != entry.size {
                    return Err("the archive is cut off".to_owned());
                }
                set_owner(&place, entry.uid, entry.gid)?;
                file.set_permissions(Permissions::from_mode(entry.mode)).map_err(at(&place))?;
                file.set_times(times(entry.modified)).map_err(at(&place))?;
                return file.sync_all().map_err(at(&place));
            }
        }
        set_owner(&place, entry.uid, entry.gid)
    })?;
    for (place, uid, gid, mode, modified) in folders.into_iter().rev() {
        set_owner(&place, uid, gid)?;
        fs::set_permissions(&place, Permissions::from_mode(mode)).map_err(at(&place))?;
        let folder = File::open(&place).map_err(at(&place))?;
        folder.set_times(times(modified)).map_err(at(&place))?;
    }
    Ok(entries)
}

fn set_owner(place: &Path, uid: u32, gid: u32) -> Result<(), String> {
    lchown(place, Some(uid), Some(gid)).map_err(at(place))
}

fn times(modified: u64) -> FileTimes {
    FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(modified))
}

#[cfg(test)]
#[path = "program/tests.rs"]
mod tests;
