//! The headers of a tar, each bounded before it is read.
//!
//! A header may announce a name or records of any length, which most readers take into memory at once.
//! The output of a build step is untrusted, so it is read through with a fixed amount of memory.

use std::io::{self, ErrorKind, Read};

use tar::{EntryType, Header};

/// The unit of a tar, in bytes.
const BLOCK: usize = 512;
/// The longest name or link target in a separate entry; Linux takes 4,096 bytes.
const LONGEST_NAME: u64 = 64 << 10;
/// The most of the extended records of one entry.
const LONGEST_RECORDS: u64 = 1 << 20;
/// Headers of names and records for each entry: its name, its link target, its records, those of all.
const HEADERS_FOR_ENTRY: usize = 4;
/// The offset of the byte in a block of a sparse file's map that announces another block.
const MORE_OF_FIRST: usize = 482;
/// The same in the blocks after the first.
const MORE_OF_NEXT: usize = 504;

/// Reads the entries of a tar up to its end or the end of `archive`, and counts them.
///
/// # Errors
/// Fails if it is not a tar, is cut off, has more than `most` entries, or a header announces more than any name
/// or record needs.
pub(super) fn count_entries(archive: &mut impl Read, most: usize) -> io::Result<usize> {
    let (mut entries, mut headers) = (0, 0);
    let mut size_in_records = None;
    while let Some(header) = next_header(archive)? {
        headers += 1;
        if entries > most || headers > most.saturating_mul(HEADERS_FOR_ENTRY) {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let size = header.entry_size()?;
        match header.entry_type() {
            EntryType::GNULongName | EntryType::GNULongLink => {
                skip(archive, at_most(size, LONGEST_NAME, "a name")?)?;
            }
            EntryType::XGlobalHeader => skip(archive, at_most(size, LONGEST_RECORDS, "the records of all")?)?,
            EntryType::XHeader => {
                let records = read(archive, at_most(size, LONGEST_RECORDS, "the records of an entry")?)?;
                size_in_records = size_of(&records);
            }
            kind => {
                if kind == EntryType::GNUSparse {
                    skip_map(archive, &header)?;
                }
                skip(archive, size_in_records.take().unwrap_or(size))?;
                entries += 1;
            }
        }
    }
    if entries > most { Err(ErrorKind::FileTooLarge.into()) } else { Ok(entries) }
}

fn at_most(size: u64, most: u64, what: &str) -> io::Result<u64> {
    if size <= most {
        return Ok(size);
    }
    Err(io::Error::new(ErrorKind::InvalidData, format!("{what} of {size} bytes, which is more than {most}")))
}

/// The next header; `None`: the archive ends.
fn next_header(archive: &mut impl Read) -> io::Result<Option<Header>> {
    let mut header = Header::new_old();
    let block = header.as_mut_bytes();
    let mut filled = 0;
    while filled < BLOCK {
        match archive.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if checksum(block) != header.cksum()? {
        return Err(io::Error::new(ErrorKind::InvalidData, "a header has a wrong checksum"));
    }
    Ok(Some(header))
}

/// The sum of all bytes, with spaces in place of the sum itself.
fn checksum(block: &[u8]) -> u32 {
    let byte =
        |(at, byte): (usize, &u8)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) };
    block.iter().enumerate().map(byte).sum()
}

/// Skips content with what fills its last block.
fn skip(archive: &mut impl Read, size: u64) -> io::Result<()> {
    let block = BLOCK as u64;
    let padded = size.checked_next_multiple_of(block).ok_or(ErrorKind::InvalidData)?;
    match io::copy(&mut archive.by_ref().take(padded), &mut io::sink())? {
        skipped if skipped == padded => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads content of a size that was checked.
fn read(archive: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    archive.by_ref().take(size).read_to_end(&mut content)?;
    let read = content.len() as u64;
    if read < size {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let filling = read.next_multiple_of(BLOCK as u64) - read;
    match io::copy(&mut archive.by_ref().take(filling), &mut io::sink())? {
        skipped if skipped == filling => Ok(content),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Skips the blocks of a sparse file's map that follow its header.
fn skip_map(archive: &mut impl Read, header: &Header) -> io::Result<()> {
    let mut more = header.as_bytes().get(MORE_OF_FIRST).copied();
    while more.is_some_and(|more| more != 0) {
        let mut block = [0; BLOCK];
        archive.read_exact(&mut block)?;
        more = block.get(MORE_OF_NEXT).copied();
    }
    Ok(())
}

/// The size of the entry in records such as `20 size=8589934592\n`.
fn size_of(records: &[u8]) -> Option<u64> {
    let mut rest = records;
    let mut size = None;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(rest.get(..space)?).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = std::str::from_utf8(value.strip_suffix(b"\n")?).ok()?.parse().ok();
        }
        rest = rest.get(length..)?;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of `size` bytes of content.
    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn padded(content: &[u8]) -> Vec<u8> {
        let mut padded = content.to_vec();
        padded.resize(content.len().next_multiple_of(BLOCK), 0);
        padded
    }

    fn count(archive: &[u8]) -> io::Result<usize> {
        count_entries(&mut &*archive, 10)
    }

    /// Gives as many bytes as are asked for, and counts them.
    struct Endless(u64);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            self.0 += buffer.len() as u64;
            Ok(buffer.len())
        }
    }

    #[test]
    fn an_oversized_name_is_rejected_before_it_is_read() {
        for kind in
            [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader]
        {
            let announced = header(kind, 2 << 30);
            let mut endless = Endless(0);
            let error = count_entries(&mut (&*announced).chain(&mut endless), 10).unwrap_err();
            assert!(error.to_string().contains("2147483648 bytes"), "{error}");
            assert_eq!(endless.0, 0, "{kind:?}");
        }
    }

    #[test]
    fn long_names_records_and_sparse_files_are_skipped() {
        let mut archive = header(EntryType::GNULongName, 600);
        archive.extend(padded(&[b'n'; 600]));
        archive.extend(header(EntryType::Regular, 3));
        archive.extend(padded(b"abc"));
        // The records contain a size that the header cannot.
        archive.extend(header(EntryType::XHeader, 12));
        archive.extend(padded(b"12 size=700\n"));
        archive.extend(header(EntryType::Regular, 0));
        archive.extend(padded(&[b'c'; 700]));
        let mut sparse = Header::new_gnu();
        sparse.set_entry_type(EntryType::GNUSparse);
        sparse.set_size(5);
        sparse.as_mut_bytes()[MORE_OF_FIRST] = 1;
        sparse.set_cksum();
        archive.extend(sparse.as_bytes());
        let mut map = [0; BLOCK];
        map[MORE_OF_NEXT] = 1;
        archive.extend(map);
        archive.extend([0; BLOCK]);
        archive.extend(padded(b"12345"));
        archive.extend(header(EntryType::Directory, 0));
        archive.extend([0; 2 * BLOCK]);
        assert_eq!(count(&archive).unwrap(), 4);
    }

    #[test]
    fn too_many_entries_or_headers_are_rejected() {
        let entries = header(EntryType::Regular, 0).repeat(11);
        assert_eq!(count(&entries).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(count(&entries[BLOCK..]).unwrap(), 10);
        let names = header(EntryType::GNULongName, 0).repeat(41);
        assert_eq!(count(&names).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn malformed_pax_records_have_no_size() {
        for records in [&b""[..], b"size=5\n", b"99 size=5\n", b"9 size=x\n", b"0 size=5\n", b"\xff size=5\n"]
        {
            assert_eq!(size_of(records), None, "{records:?}");
        }
        assert_eq!(size_of(b"10 path=a\n9 size=5\n"), Some(5));
    }
}
