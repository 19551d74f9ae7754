//! `.dockerignore`: the files of a context that are not sent.

use super::error::ContextError;
use super::glob::Glob;

/// The rules of an ignore file, in order.
///
/// They decide like the Docker CLI and BuildKit do while they walk a tree. The last matching rule wins. A
/// rule that matches a directory also applies to everything below it, unless it could not change the result
/// for the directory itself (an exception for something that is not ignored, or a second rule for something
/// that is).
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    rules: Vec<IgnoreRule>,
}

#[derive(Clone, Debug)]
struct IgnoreRule {
    exception: bool,
    glob: Glob,
}

/// The result of the rules for one path. The result for a directory is the starting point for its children.
#[derive(Clone, Debug, Default)]
pub(super) struct IgnoreMatch {
    /// Whether the path itself is ignored.
    pub(super) ignored: bool,
    /// Which rules matched, in order.
    matched: Vec<bool>,
}

impl IgnoreRules {
    /// Parses the text of an ignore file.
    ///
    /// # Errors
    /// Returns [`ContextError::Pattern`] for the first line that is not a valid pattern.
    pub fn parse(text: &str) -> Result<Self, ContextError> {
        Self::parse_bytes(text.as_bytes())
    }

    /// Parses the bytes of an ignore file. Comments may be in any encoding.
    ///
    /// # Errors
    /// Returns [`ContextError::Pattern`] for the first line that is not a valid pattern, or not UTF-8. A rule
    /// that silently matched nothing would send files that should be ignored.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, ContextError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut rules = Vec::new();
        for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if line.starts_with(b"#") {
                continue;
            }
            let rule =
                std::str::from_utf8(line).map_err(|_| "the line is not UTF-8").and_then(IgnoreRule::parse);
            match rule {
                Ok(rule) => rules.extend(rule),
                Err(rule) => return Err(refused(index + 1, line, rule)),
            }
        }
        Ok(Self { rules })
    }

    /// Whether the file or directory at `path` (relative to the context, parts separated by single slashes)
    /// is ignored.
    pub fn is_ignored(&self, path: &str) -> bool {
        let mut verdict = IgnoreMatch::default();
        for (end, _) in path.match_indices('/') {
            verdict = self.judge(path.get(..end).unwrap_or_default(), &verdict);
        }
        self.judge(path, &verdict).ignored
    }

    /// Whether an exception might match below the ignored `directory`. If not, a walk need not enter it.
    pub fn may_contain_exceptions(&self, directory: &str) -> bool {
        self.rules.iter().any(|rule| rule.exception && rule.glob.may_match_below(directory))
    }

    /// The cleaned texts of the exceptions, without their `!`.
    #[cfg(test)]
    pub(super) fn exceptions(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter(|rule| rule.exception).map(|rule| rule.glob.text.as_str())
    }

    /// The result for `path`, given the result `parent` of its parent (the default at the top).
    pub(super) fn judge(&self, path: &str, parent: &IgnoreMatch) -> IgnoreMatch {
        let mut ignored = false;
        let mut matched = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let inherited = parent.matched.get(index) == Some(&true);
            let hit = inherited || rule.exception == ignored && rule.glob.matches(path);
            if hit {
                ignored = !rule.exception;
            }
            matched.push(hit);
        }
        IgnoreMatch { ignored, matched }
    }
}

impl IgnoreRule {
    /// Parses one line; `None` if it contains no rule.
    fn parse(line: &str) -> Result<Option<Self>, &'static str> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        let (mut exception, pattern) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let cleaned = if pattern.is_empty() { String::new() } else { clean(pattern) };
        let mut pattern = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
        // Docker looks for the `!` again after cleaning, so `./!a` is an exception too.
        if let Some(rest) = pattern.strip_prefix('!').filter(|_| !exception) {
            (exception, pattern) = (true, rest);
        }
        if exception && matches!(pattern, "" | "/") {
            return Err("nothing follows a !");
        }
        Ok(Some(Self { exception, glob: Glob::parse(pattern)? }))
    }
}

fn refused(line: usize, text: &[u8], rule: &'static str) -> ContextError {
    let pattern = String::from_utf8_lossy(text).trim().chars().take(80).collect();
    ContextError::Pattern { line, pattern, rule }
}

/// The shortest equivalent path, from its text alone: without `.` and double slashes, and with each `..`
/// removed together with the part before it.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests;
