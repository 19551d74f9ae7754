//! The installation guide: its commands work exactly as written.

use std::path::Path;
use std::process::Command;

use crate::common::{SECRET, abide_with};

const GUIDE: &str = include_str!("../../docs/install.md");
const SHIPPED: &str = include_str!("../../desired-state/keepwork.toml");

/// Returns the only command line of the guide that contains `words`.
fn command(words: &str) -> &'static str {
    let lines: Vec<&str> = GUIDE.lines().filter(|line| line.contains(words)).collect();
    assert_eq!(lines.len(), 1, "{words}: {lines:?}");
    lines[0]
}

#[test]
fn the_guides_manifest_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("keepwork.toml");
    std::fs::write(&manifest, SHIPPED).unwrap();
    let edit = command("sed -i").replace("/etc/abide/keepwork.toml", manifest.to_str().unwrap());
    let status = Command::new("sh").args(["-c", &edit]).status().unwrap();
    assert!(status.success(), "{edit}");
    let ran = abide_with(folder.path(), &["check"], &[("KEEPWORK_WEBHOOK_SECRET", SECRET)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("3 environments (dev, prod, test)"), "{ran:?}");
    let made = std::fs::read_to_string(&manifest).unwrap();
    for line in
        ["hostname = \"dev.", "hostname = \"test.", "push = ", "host = \"online\"", "[front]", "[registry]"]
    {
        assert!(made.lines().any(|made| made.starts_with(line)), "{line} is not taken in:\n{made}");
    }
}

#[test]
fn every_file_copied_in_the_guide_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copied: Vec<&str> = GUIDE.lines().filter_map(|line| line.strip_prefix("scp ")).collect();
    let files = copied.iter().flat_map(|line| line.split(' ')).filter(|word| !word.starts_with("root@"));
    let shipped: Vec<&str> = files.filter(|file| !file.starts_with("target/")).collect();
    assert!(shipped.len() >= 3, "{shipped:?}");
    for file in shipped {
        assert!(root.join(file).is_file(), "{file}");
    }
}
