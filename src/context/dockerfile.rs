//! The base images of a Dockerfile.

use std::collections::{BTreeMap, BTreeSet};

/// The images that `text` names in `FROM`, `COPY --from` and `RUN --mount=from`, if it is built with `args`.
/// Excludes its own stages, `scratch`, and names that cannot be determined.
pub fn bases(text: &str, args: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut reading =
        DockerfileReader { args, declared: BTreeMap::new(), stages: BTreeSet::new(), found: BTreeSet::new() };
    for instruction in instructions(text) {
        reading.take(&instruction);
    }
    reading.found
}

struct DockerfileReader<'a> {
    args: &'a BTreeMap<String, String>,
    /// Arguments that are declared before the first `FROM`.
    declared: BTreeMap<String, String>,
    stages: BTreeSet<String>,
    found: BTreeSet<String>,
}

impl DockerfileReader<'_> {
    fn take(&mut self, instruction: &str) {
        let mut words = instruction.split_whitespace();
        let Some(name) = words.next() else { return };
        match name.to_ascii_uppercase().as_str() {
            "ARG" if self.stages.is_empty() => words.for_each(|word| self.declare(word)),
            "FROM" => self.from(words.filter(|word| !word.starts_with("--")).collect()),
            "COPY" => {
                let from = words.filter_map(|word| word.strip_prefix("--from="));
                from.for_each(|image| self.name(image));
            }
            "RUN" => {
                let mounts = words.filter_map(|word| word.strip_prefix("--mount="));
                let options = mounts.flat_map(|mount| mount.split(','));
                options.filter_map(|option| option.strip_prefix("from=")).for_each(|image| self.name(image));
            }
            _ => {}
        }
    }

    fn declare(&mut self, word: &str) {
        let (name, default) = word.split_once('=').unwrap_or((word, ""));
        let value = self.args.get(name).cloned().unwrap_or_else(|| default.trim_matches('"').to_owned());
        self.declared.insert(name.to_owned(), value);
    }

    fn from(&mut self, words: Vec<&str>) {
        if let Some(image) = words.first() {
            self.name(image);
        }
        // Stages are also known by their number, which is never an image name.
        self.stages.insert(self.stages.len().to_string());
        if let [_, word, stage, ..] = words.as_slice()
            && word.eq_ignore_ascii_case("as")
        {
            self.stages.insert(stage.to_ascii_lowercase());
        }
    }

    fn name(&mut self, image: &str) {
        let Some(image) = filled(image, &self.declared) else { return };
        let is_stage = self.stages.contains(&image.to_ascii_lowercase());
        if !is_stage && !image.is_empty() && image != "scratch" && !image.bytes().all(|b| b.is_ascii_digit())
        {
            self.found.insert(image);
        }
    }
}

/// The instructions, each on one line, without comments.
fn instructions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match line.strip_suffix('\\') {
            Some(more) => pending.extend([more, " "]),
            None => {
                pending.push_str(line);
                found.push(std::mem::take(&mut pending));
            }
        }
    }
    found.push(pending);
    found
}

/// Substitutes `$NAME`, `${NAME}` and `${NAME:-default}` in `text`; `None` if a value is unknown.
fn filled(text: &str, values: &BTreeMap<String, String>) -> Option<String> {
    let mut done = String::new();
    let mut rest = text.trim_matches('"');
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (expression, end) = match after.strip_prefix('{') {
            Some(inner) => (inner.split_once('}')?.0, inner.find('}')? + 2),
            None => {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = after.find(|c: char| !is_part(c)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        let (name, default) = match expression.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (expression, None),
        };
        let value = values.get(name).map(String::as_str).filter(|value| !value.is_empty());
        done.push_str(value.or(default)?);
        rest = &after[end..];
    }
    Some(done + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, args: &[(&str, &str)]) -> Vec<String> {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        bases(text, &args).into_iter().collect()
    }

    #[test]
    fn all_images_of_a_dockerfile_are_found_except_its_stages() {
        let text = "# syntax=docker/dockerfile:1\nFROM --platform=linux/amd64 golang:1 AS Build\nRUN make\n\
                    from scratch\nCOPY --from=build /a /a\nCOPY --from=0 /b /b\n\
                    COPY --chown=1 --from=nginx:1 \\\n  /c /c\nRUN --mount=type=bind,from=tools:2,target=/t x\n\
                    FROM build\n";
        assert_eq!(found(text, &[]), ["golang:1", "nginx:1", "tools:2"]);
    }

    #[test]
    fn global_args_are_substituted_in_from_lines() {
        let text = "ARG VERSION=1\nARG BASE\nFROM app:$VERSION\nFROM ${BASE:-other}:x\nFROM ${UNKNOWN}\n";
        assert_eq!(found(text, &[]), ["app:1", "other:x"]);
        assert_eq!(found(text, &[("VERSION", "2"), ("BASE", "mine")]), ["app:2", "mine:x"]);
    }

    #[test]
    fn a_malformed_dockerfile_yields_no_images() {
        for text in ["", "FROM", "FROM \\", "FROM ${", "COPY --from=", "\u{0}", "FROM $"] {
            assert_eq!(found(text, &[]), Vec::<String>::new(), "{text:?}");
        }
    }
}
