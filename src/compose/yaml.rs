//! YAML as compose files use it: with anchors, merge keys and compose's own tags, and bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

/// The most values of a file, each alias counted with all that it repeats. The largest file in use has about
/// 4000; a file of aliases of aliases would have billions.
const MOST_NODES: usize = 100_000;
/// The deepest nesting. Compose needs eight levels.
const DEEPEST: usize = 64;

/// A value, with the line on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) merge: MergeTag,
    pub(super) kind: YamlKind,
}

/// The content of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum YamlKind {
    Null,
    Text(Scalar),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A text, number or flag as it is written, and the variables that became part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Whether it has no quotes, so that `true` is a flag.
    pub(super) plain: bool,
    /// The variables in it.
    pub(super) variables: Vec<String>,
    /// The text with its variables, if it has any.
    pub(super) raw: String,
    /// The variables that have no value.
    pub(super) unset: Vec<String>,
}

/// How an override treats the value that it replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MergeTag {
    /// As compose merges values of this key.
    #[default]
    Usual,
    /// `!reset`: the value is removed.
    Reset,
    /// `!override`: the value is replaced as a whole.
    Override,
}

impl Node {
    pub(super) fn new(line: usize, kind: YamlKind) -> Self {
        Self { line, merge: MergeTag::Usual, kind }
    }

    pub(super) fn of_text(line: usize, text: impl Into<String>) -> Self {
        Self::new(line, YamlKind::Text(Scalar { text: text.into(), ..Scalar::default() }))
    }

    /// The value with another text, which the same variables are part of.
    pub(super) fn with_text(&self, text: impl Into<String>) -> Self {
        let scalar = Scalar { text: text.into(), plain: false, ..self.scalar().cloned().unwrap_or_default() };
        Self { kind: YamlKind::Text(scalar), ..self.clone() }
    }

    pub(super) fn is_null(&self) -> bool {
        self.kind == YamlKind::Null
    }

    pub(super) fn scalar(&self) -> Option<&Scalar> {
        if let YamlKind::Text(scalar) = &self.kind { Some(scalar) } else { None }
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.scalar().map(|scalar| scalar.text.as_str())
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.text()? {
            "true" | "True" | "TRUE" | "yes" | "on" | "1" => Some(true),
            "false" | "False" | "FALSE" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    pub(super) fn items(&self) -> &[Self] {
        if let YamlKind::List(items) = &self.kind { items } else { &[] }
    }

    /// The items of a list; one value stands for a list of it.
    pub(super) fn one_or_many(&self) -> Vec<&Self> {
        match &self.kind {
            YamlKind::Null => Vec::new(),
            YamlKind::List(items) => items.iter().collect(),
            _ => vec![self],
        }
    }

    pub(super) fn entries(&self) -> &[(String, Self)] {
        if let YamlKind::Map(entries) = &self.kind { entries } else { &[] }
    }

    pub(super) fn entries_mut(&mut self) -> &mut [(String, Self)] {
        if let YamlKind::Map(entries) = &mut self.kind { entries } else { &mut [] }
    }

    /// The value of a key that is set.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, value)| value).filter(|it| !it.is_null())
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.entries_mut().iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn get_text(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// Calls `look` with every text in it.
    pub(super) fn each_scalar(&self, look: &mut impl FnMut(&Scalar)) {
        match &self.kind {
            YamlKind::Null => {}
            YamlKind::Text(scalar) => look(scalar),
            YamlKind::List(items) => items.iter().for_each(|item| item.each_scalar(look)),
            YamlKind::Map(entries) => entries.iter().for_each(|(_, value)| value.each_scalar(look)),
        }
    }

    /// Calls `change` with every text in it.
    pub(super) fn each_text(&mut self, change: &mut impl FnMut(&mut Scalar, usize)) {
        match &mut self.kind {
            YamlKind::Null => {}
            YamlKind::Text(scalar) => change(scalar, self.line),
            YamlKind::List(items) => items.iter_mut().for_each(|item| item.each_text(change)),
            YamlKind::Map(entries) => entries.iter_mut().for_each(|(_, value)| value.each_text(change)),
        }
    }
}

/// Why a text is not a YAML file that compose would read: the line, and the rest of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InvalidYaml {
    pub(super) line: usize,
    pub(super) problem: String,
}

/// Reads the first document of a text. An empty text is null.
pub(super) fn read(text: &str) -> Result<Node, InvalidYaml> {
    let mut reader = YamlReader { anchors: HashMap::new(), left: MOST_NODES };
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| InvalidYaml {
            line: error.marker().line(),
            problem: format!("is not YAML: {}", error.info()),
        })?;
        let line = span.start.line();
        let node = match event {
            Event::Scalar(text, style, anchor, tag) => {
                Some(reader.done(scalar(&text, style, line, tag.as_deref()), anchor))
            }
            Event::Alias(anchor) => Some(reader.repeat(anchor, line)?),
            Event::SequenceStart(anchor, tag) => {
                open.push(Open::new(line, anchor, tag.as_deref(), YamlKind::List(Vec::new())));
                None
            }
            Event::MappingStart(anchor, tag) => {
                open.push(Open::new(line, anchor, tag.as_deref(), YamlKind::Map(Vec::new())));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(done) => Some(reader.done(done.node.with_merged_keys()?, done.anchor)),
                None => None,
            },
            _ => None,
        };
        if open.len() > DEEPEST {
            return Err(InvalidYaml { line, problem: "is nested too deeply".to_owned() });
        }
        let Some(node) = node else { continue };
        reader.count(1, line)?;
        match open.last_mut() {
            Some(parent) => parent.add(node)?,
            None => return Ok(node),
        }
    }
    Ok(Node::new(1, YamlKind::Null))
}

struct YamlReader {
    anchors: HashMap<usize, Node>,
    left: usize,
}

impl YamlReader {
    fn done(&mut self, node: Node, anchor: usize) -> Node {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        node
    }

    fn repeat(&mut self, anchor: usize, line: usize) -> Result<Node, InvalidYaml> {
        let unknown =
            || InvalidYaml { line, problem: "uses an alias of something that contains it".to_owned() };
        let size = self.anchors.get(&anchor).map(size).ok_or_else(unknown)?;
        self.count(size, line)?;
        Ok(Node { line, ..self.anchors.get(&anchor).cloned().ok_or_else(unknown)? })
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), InvalidYaml> {
        let too_many = || InvalidYaml { line, problem: format!("has more than {MOST_NODES} values") };
        self.left = self.left.checked_sub(nodes).ok_or_else(too_many)?;
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.kind {
        YamlKind::Null | YamlKind::Text(_) => 1,
        YamlKind::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        YamlKind::Map(entries) => 1 + entries.iter().map(|(_, value)| size(value)).sum::<usize>(),
    }
}

/// A list or table whose end was not read yet.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<String>,
}

impl Open {
    fn new(line: usize, anchor: usize, tag: Option<&Tag>, kind: YamlKind) -> Self {
        Self { node: Node { line, merge: merge_tag(tag), kind }, anchor, key: None }
    }

    fn add(&mut self, node: Node) -> Result<(), InvalidYaml> {
        match &mut self.node.kind {
            YamlKind::List(items) => items.push(node),
            YamlKind::Map(entries) => match self.key.take() {
                None => self.key = Some(key(&node)?),
                Some(key) => {
                    let is_merge = key == MERGE;
                    if !is_merge && entries.iter().any(|(name, _)| *name == key) {
                        let problem = format!("has the key `{key}` twice in one table");
                        return Err(InvalidYaml { line: node.line, problem });
                    }
                    entries.push((key, node));
                }
            },
            YamlKind::Null | YamlKind::Text(_) => {}
        }
        Ok(())
    }
}

/// The key whose value is merged into the table that has it.
const MERGE: &str = "<<";

fn key(node: &Node) -> Result<String, InvalidYaml> {
    match &node.kind {
        YamlKind::Text(scalar) => Ok(scalar.text.clone()),
        YamlKind::Null => Ok("null".to_owned()),
        _ => Err(InvalidYaml { line: node.line, problem: "has a list or a table as a key".to_owned() }),
    }
}

impl Node {
    /// Merges the tables at `<<` into this one. Its own keys go before them, and earlier tables before later
    /// ones.
    fn with_merged_keys(mut self) -> Result<Self, InvalidYaml> {
        let YamlKind::Map(entries) = &mut self.kind else { return Ok(self) };
        let (merged, mut own): (Vec<_>, Vec<_>) = entries.drain(..).partition(|(key, _)| key == MERGE);
        for (_, value) in merged {
            let tables = if let YamlKind::List(tables) = value.kind { tables } else { vec![value] };
            for table in tables {
                let YamlKind::Map(more) = table.kind else {
                    let problem = "merges something that is not a table with `<<`".to_owned();
                    return Err(InvalidYaml { line: self.line, problem });
                };
                for (key, value) in more {
                    if !own.iter().any(|(name, _)| *name == key) {
                        own.push((key, value));
                    }
                }
            }
        }
        *entries = own;
        Ok(self)
    }
}

fn merge_tag(tag: Option<&Tag>) -> MergeTag {
    match tag.map(|tag| (tag.handle.as_str(), tag.suffix.as_str())) {
        Some(("!", "reset")) => MergeTag::Reset,
        Some(("!", "override")) => MergeTag::Override,
        _ => MergeTag::Usual,
    }
}

fn scalar(text: &str, style: ScalarStyle, line: usize, tag: Option<&Tag>) -> Node {
    let plain = style == ScalarStyle::Plain && tag.is_none_or(|tag| tag.suffix != "str");
    let kind = match text {
        "" | "~" | "null" | "Null" | "NULL" if plain => YamlKind::Null,
        _ => YamlKind::Text(Scalar { text: text.to_owned(), plain, ..Scalar::default() }),
    };
    Node { line, merge: merge_tag(tag), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_override_merged_keys() {
        let text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 9}, *a]}\nd: *a\n";
        let root = read(text).unwrap();
        let value = |table: &str, key: &str| root.get(table).unwrap().get_text(key).unwrap().to_owned();
        assert_eq!((value("b", "x"), value("b", "y")), ("1".to_owned(), "3".to_owned()));
        assert_eq!((value("c", "x"), value("c", "y")), ("9".to_owned(), "2".to_owned()));
        assert_eq!(value("d", "y"), "2");
        assert_eq!(root.get("b").unwrap().line, 2);
    }

    #[test]
    fn quoted_scalars_stay_text_and_compose_tags_are_recognized() {
        let root = read("a: \"true\"\nb: null\nc: 'null'\nd: !reset null\ne: !override [x]\n").unwrap();
        assert!(root.get("b").is_none() && root.get("c").is_some());
        assert!(!root.get("a").unwrap().scalar().unwrap().plain);
        assert_eq!(root.entries()[3].1.merge, MergeTag::Reset);
        assert_eq!(root.get("e").unwrap().merge, MergeTag::Override);
    }

    #[test]
    fn alias_bombs_and_deep_nesting_are_rejected() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(read(&bomb).unwrap_err().problem.contains("more than"));
        assert!(read(&"[".repeat(500)).is_err());
        assert!(read("a: &a [*a]").is_err());
        for wrong in ["a: 1\na: 2", "a: [", "? [x]\n: 1", "<<: 3", "a:\n\t- b"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
