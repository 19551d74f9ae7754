//! Mounts of a service in compose's long form.

use std::path::{Path, PathBuf};

use super::yaml::{Node, YamlKind};

/// The options of the short form that mean nothing on Linux.
const MEANINGLESS: &[&str] = &["rw", "cached", "delegated", "consistent", ""];

/// Turns `source:target:options` into the long form; `None`: it is not a mount. Relative sources begin at `dir`.
pub(super) fn long_form(item: &Node, dir: &Path, home: Option<&Path>) -> Option<Node> {
    let line = item.line;
    let text = match &item.kind {
        YamlKind::Text(scalar) => scalar.text.as_str(),
        YamlKind::Map(_) => return Some(rooted(item.clone(), dir, home)),
        _ => return None,
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [target, options] if target.starts_with('/') && is_options(options) => (None, target, options),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return None,
    };
    let kind = match source {
        Some(source) if source.starts_with(['.', '/', '~']) => "bind",
        _ => "volume",
    };
    let mut entries = vec![("type".to_owned(), Node::of_text(line, kind))];
    if let Some(source) = source {
        let source = if kind == "bind" { host_path(source, dir, home) } else { source.to_owned() };
        // The notes on its variables need to be there once.
        entries.push(("source".to_owned(), item.with_text(source)));
        entries.push(("target".to_owned(), Node::of_text(line, target)));
    } else {
        entries.push(("target".to_owned(), item.with_text(target)));
    }
    // The short form makes missing folders.
    entries.push(("create".to_owned(), Node::of_text(line, "true")));
    for option in options.split(',').filter(|option| !MEANINGLESS.contains(option)) {
        let (key, value) = match option {
            "ro" | "readonly" => ("read_only", "true"),
            "nocopy" => ("nocopy", "true"),
            "z" | "Z" => ("selinux", option),
            _ => ("propagation", option),
        };
        entries.push((key.to_owned(), Node::of_text(line, value)));
    }
    Some(Node::new(line, YamlKind::Map(entries)))
}

fn is_options(text: &str) -> bool {
    let known = ["ro", "rw", "nocopy", "z", "Z", "cached", "delegated", "consistent"];
    text.split(',').all(|option| known.contains(&option))
}

/// The long form with its inner tables at its top, and with an absolute source.
fn rooted(mut item: Node, dir: &Path, home: Option<&Path>) -> Node {
    let line = item.line;
    let kind = item.get_text("type").unwrap_or("volume").to_owned();
    let inner = ["bind", "volume", "tmpfs"].map(|key| item.get(key).cloned());
    let mut more = Vec::new();
    for table in inner.iter().flatten() {
        more.extend(table.entries().iter().cloned());
    }
    let missing_is_made =
        more.iter().find(|(key, _)| key == "create_host_path").and_then(|(_, value)| value.flag());
    more.retain(|(key, _)| key != "create_host_path");
    // Docker's command line creates nothing for a bind in the long form, and compose does.
    let creates = missing_is_made.unwrap_or(true).to_string();
    more.push(("create".to_owned(), Node::of_text(line, creates)));
    if let YamlKind::Map(entries) = &mut item.kind {
        entries.retain(|(key, _)| !["bind", "volume", "tmpfs", "consistency"].contains(&key.as_str()));
        for (key, value) in entries.iter_mut() {
            match key.as_str() {
                "src" => "source".clone_into(key),
                "dst" | "destination" => "target".clone_into(key),
                "readonly" => "read_only".clone_into(key),
                _ => {}
            }
            if let (true, "source", Some(text)) = (kind == "bind", key.as_str(), value.text()) {
                *value = value.with_text(host_path(text, dir, home));
            }
        }
        entries.extend(more);
    }
    item
}

/// An absolute path of the host.
pub(super) fn host_path(text: &str, dir: &Path, home: Option<&Path>) -> String {
    let path = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => dir.join(text),
    };
    cleaned(&path).display().to_string()
}

/// The path without `.` and `..`, as text alone: nothing has to exist.
pub(super) fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}
