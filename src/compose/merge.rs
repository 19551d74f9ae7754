//! One service over another: by several files, and by `extends`.

use super::yaml::{MergeTag, Node, YamlKind};

/// Tables that may be written as a list of `name=text`, or of names.
const TABLES: &[&str] =
    &["environment", "labels", "annotations", "sysctls", "args", "depends_on", "networks", "extra_hosts"];
/// Lists that are replaced as a whole.
const REPLACED: &[&str] = &["command", "entrypoint", "test"];
/// Keys whose single text stands for a list of it.
const LISTS: &[&str] = &["dns", "dns_search", "tmpfs", "env_file", "cache_from", "label_file"];

/// Brings a service into compose's long form, so that two of them can be merged.
pub(super) fn normalize(service: &mut Node) {
    for (key, value) in service.entries_mut() {
        normalize_value(key.as_str(), value);
        if key.as_str() == "build" {
            if let YamlKind::Text(_) = value.kind {
                let context = std::mem::replace(value, Node::new(value.line, YamlKind::Null));
                *value = Node::new(context.line, YamlKind::Map(vec![("context".to_owned(), context)]));
            }
            value.entries_mut().iter_mut().for_each(|(key, value)| normalize_value(key.as_str(), value));
        }
    }
}

fn normalize_value(key: &str, value: &mut Node) {
    let line = value.line;
    if TABLES.contains(&key) {
        if let YamlKind::List(items) = &mut value.kind {
            let entries = items.drain(..).filter_map(|item| pair(key, item)).collect();
            value.kind = YamlKind::Map(entries);
        }
    } else if LISTS.contains(&key) && value.text().is_some() {
        let one = std::mem::replace(value, Node::new(line, YamlKind::Null));
        *value = Node::new(line, YamlKind::List(vec![one]));
    }
}

/// Reads `name=text`. Hosts may have a colon between name and address.
fn pair(key: &str, item: Node) -> Option<(String, Node)> {
    let mut scalar = item.scalar()?.clone();
    let text = std::mem::take(&mut scalar.text);
    let split = text.split_once('=').or_else(|| text.split_once(':').filter(|_| key == "extra_hosts"));
    Some(match split {
        Some((name, value)) => {
            scalar.text = value.to_owned();
            scalar.raw = scalar.raw.split_once('=').map(|(_, raw)| raw.to_owned()).unwrap_or_default();
            (name.trim().to_owned(), Node { kind: YamlKind::Text(scalar), ..item })
        }
        None => (text, Node { kind: YamlKind::Null, ..item }),
    })
}

/// Returns `over` on top of `base`, as values of `key`.
pub(super) fn merge(base: Node, over: Node, key: &str) -> Node {
    if over.merge == MergeTag::Override || base.is_null() {
        return Node { merge: MergeTag::Usual, ..over };
    }
    let line = over.line;
    match (base.kind, over.kind) {
        (kind, YamlKind::Null) => Node::new(base.line, kind),
        (YamlKind::Map(base), YamlKind::Map(over)) => {
            Node::new(line, YamlKind::Map(merge_tables(base, over)))
        }
        (YamlKind::List(base), YamlKind::List(over)) if !REPLACED.contains(&key) => {
            Node::new(line, YamlKind::List(merge_lists(base, over, key)))
        }
        (_, kind) => Node::new(line, kind),
    }
}

fn merge_tables(mut base: Vec<(String, Node)>, over: Vec<(String, Node)>) -> Vec<(String, Node)> {
    for (key, value) in over {
        let at = base.iter().position(|(name, _)| *name == key);
        match (at, value.merge) {
            (Some(at), MergeTag::Reset) => drop(base.remove(at)),
            (None, MergeTag::Reset) => {}
            (Some(at), _) => {
                let old = std::mem::replace(&mut base[at].1, Node::new(0, YamlKind::Null));
                base[at].1 = merge(old, value, &key);
            }
            (None, _) => base.push((key, value)),
        }
    }
    base
}

/// Adds to a list. What mounts at the same path replaces the earlier mount, and nothing is repeated.
fn merge_lists(mut base: Vec<Node>, over: Vec<Node>, key: &str) -> Vec<Node> {
    for item in over {
        let is_same = |other: &Node| match key {
            "volumes" => target(other).is_some() && target(other) == target(&item),
            _ => same(other, &item),
        };
        match base.iter().position(is_same) {
            Some(at) => base[at] = item,
            None => base.push(item),
        }
    }
    base
}

fn target(mount: &Node) -> Option<&str> {
    mount.get_text("target")
}

/// Whether two values are equal, wherever they are written.
fn same(one: &Node, other: &Node) -> bool {
    match (&one.kind, &other.kind) {
        (YamlKind::Text(one), YamlKind::Text(other)) => one.text == other.text,
        (YamlKind::List(one), YamlKind::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (YamlKind::Map(one), YamlKind::Map(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((a, one), (b, other))| a == b && same(one, other))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::read;
    use super::*;

    fn merged(base: &str, over: &str) -> Node {
        let [mut base, mut over] = [base, over].map(|text| read(text).unwrap());
        normalize(&mut base);
        normalize(&mut over);
        merge(base, over, "")
    }

    #[test]
    fn tables_are_merged_lists_are_added_and_commands_are_replaced() {
        let both = merged(
            "environment: [A=1, B=2]\ncommand: [a, b]\ndns: 1.1.1.1\nports: ['1:1']\nuser: x\nlabels: {a: b}\n",
            "environment: {B: 3, C: }\ncommand: [c]\ndns: [8.8.8.8]\nports: ['1:1', '2:2']\nuser: !reset null\n",
        );
        let env = both.get("environment").unwrap();
        assert_eq!((env.get_text("A"), env.get_text("B")), (Some("1"), Some("3")));
        assert_eq!(env.entries()[2].0, "C");
        assert_eq!(both.get("command").unwrap().items().len(), 1);
        assert_eq!(both.get("dns").unwrap().items().len(), 2);
        assert_eq!(both.get("ports").unwrap().items().len(), 2);
        assert!(both.get("user").is_none() && both.get("labels").is_some());
    }

    #[test]
    fn a_mount_at_the_same_path_replaces_the_earlier_one() {
        let both = merged(
            "volumes: [{source: a, target: /x}, {source: b, target: /y}]\nbuild: .\n",
            "volumes: [{source: c, target: /x}]\nbuild: {target: t}\n",
        );
        let volumes = both.get("volumes").unwrap().items();
        assert_eq!((volumes.len(), volumes[0].get_text("source")), (2, Some("c")));
        let build = both.get("build").unwrap();
        assert_eq!((build.get_text("context"), build.get_text("target")), (Some("."), Some("t")));
    }
}
