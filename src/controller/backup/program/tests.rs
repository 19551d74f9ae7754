//! Round trips through archives, and archives that are damaged.

use super::*;

/// A volume with everything that an archive can hold, and a folder for archives.
fn volume() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (volume, folder) = (dir.path().join("volume"), dir.path().join("backups"));
    let long = "n".repeat(150);
    fs::create_dir_all(volume.join("sub").join(&long)).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(volume.join("empty"), "").unwrap();
    fs::write(volume.join("sub/data"), "x".repeat(1500)).unwrap();
    fs::write(volume.join("sub").join(&long).join("deep"), "deep").unwrap();
    fs::set_permissions(volume.join("sub/data"), Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(volume.join("sub/data"), volume.join("same")).unwrap();
    symlink("../outside", volume.join("sub/link")).unwrap();
    symlink("t".repeat(180), volume.join("long-link")).unwrap();
    let times = times(1_000_000_000);
    File::open(volume.join("sub/data")).unwrap().set_times(times).unwrap();
    (dir, volume, folder)
}

fn listed(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let content = if kind.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else {
                fs::read(&path).unwrap()
            };
            all.push((path.strip_prefix(folder).unwrap().to_owned(), content));
        }
    }
    all.sort();
    all
}

#[test]
fn a_restore_brings_back_exactly_what_was_backed_up() {
    let (_dir, volume, folder) = volume();
    let before = listed(&volume);
    let done = back_up(&volume, &folder, "a-1.tar", "a-", 0).unwrap();
    assert!(done.ends_with("into a-1.tar, without extended attributes, capabilities and ACLs"), "{done}");
    fs::remove_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("later"), "later").unwrap();
    let later = listed(&volume);
    let done = restore(&volume, &folder, "a-1.tar", "a-before-2.tar").unwrap();
    assert!(done.ends_with("from a-1.tar, without extended attributes, capabilities and ACLs"), "{done}");
    assert_eq!(listed(&volume), before);
    let seen = fs::metadata(volume.join("sub/data")).unwrap();
    assert_eq!((seen.mode() & 0o7777, seen.mtime(), seen.nlink()), (0o640, 1_000_000_000, 2));
    restore(&volume, &folder, "a-before-2.tar", "a-before-3.tar").unwrap();
    assert_eq!(listed(&volume), later, "the content before the restore was kept");
}

#[test]
fn other_programs_read_an_archive() {
    let (_dir, volume, folder) = volume();
    back_up(&volume, &folder, "a-1.tar", "a-", 0).unwrap();
    let mut archive = tar::Archive::new(File::open(folder.join("a-1.tar")).unwrap());
    let names: Vec<PathBuf> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert!(names.contains(&PathBuf::from(format!("sub/{}/deep", "n".repeat(150)))), "{names:?}");
    let unpacked = folder.join("unpacked");
    tar::Archive::new(File::open(folder.join("a-1.tar")).unwrap()).unpack(&unpacked).unwrap();
    assert_eq!(listed(&unpacked), listed(&volume));
}

#[test]
fn a_damaged_archive_changes_nothing() {
    let (_dir, volume, folder) = volume();
    back_up(&volume, &folder, "a-1.tar", "a-", 0).unwrap();
    let whole = fs::read(folder.join("a-1.tar")).unwrap();
    let before = listed(&volume);
    let mut flipped = whole.clone();
    flipped[BLOCK + 3] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &whole[..whole.len() - 2 * BLOCK], &flipped] {
        fs::write(folder.join("a-1.tar"), damaged).unwrap();
        assert!(restore(&volume, &folder, "a-1.tar", "s.tar").is_err());
        assert_eq!(listed(&volume), before);
    }
}

#[test]
fn only_the_newest_archives_of_the_same_job_are_kept() {
    let (_dir, volume, folder) = volume();
    for other in ["b-1.tar", "a-before-1.tar", "a-note.txt"] {
        fs::write(folder.join(other), "").unwrap();
    }
    for number in 1..5 {
        back_up(&volume, &folder, &format!("a-{number}.tar"), "a-", 2).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a-3.tar", "a-4.tar", "a-before-1.tar", "a-note.txt", "b-1.tar"]);
}

#[test]
fn large_numbers_survive_a_header() {
    for number in [0, 0o7_777_777, 0o10_000_000, u64::from(u32::MAX)] {
        let mut header = Header::new(b"a", b'0', 0);
        header.number(108, 8, number);
        assert_eq!(header.value(108, 8), Some(number));
    }
    for number in [8 << 30, (8 << 30) - 1, 1 << 50] {
        let mut header = Header::new(b"a", b'0', 0);
        header.number(124, 12, number);
        assert_eq!(header.value(124, 12), Some(number));
    }
}
