//! `.dockerignore`: which files of a context are not sent.

use super::error::ContextError;
use super::glob::Glob;

/// The rules of an ignore file, in their order.
///
/// They decide as the Docker CLI and BuildKit do while they walk a tree: the last rule that
/// matches wins; a rule that matches a directory goes on for all that is below it; and a rule that
/// could change nothing when a directory was looked at (an exception to something not ignored, or
/// a second rule for what already is) does not reach below by that directory.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    exception: bool,
    glob: Glob,
}

/// What the rules said of one path; the verdict on a directory is where its children begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// Whether the path itself is ignored.
    pub(super) ignored: bool,
    /// Which rules matched, in their order.
    matched: Vec<bool>,
}

impl IgnoreRules {
    /// Reads the text of an ignore file.
    ///
    /// # Errors
    /// [`ContextError::Pattern`] for the first line that is no pattern.
    pub fn parse(text: &str) -> Result<Self, ContextError> {
        Self::parse_bytes(text.as_bytes())
    }

    /// Reads the bytes of an ignore file. Comments may be in any encoding.
    ///
    /// # Errors
    /// [`ContextError::Pattern`] for the first line that is no pattern, or not UTF-8: a rule that
    /// silently matched nothing would send what was meant to stay.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, ContextError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut rules = Vec::new();
        for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if line.starts_with(b"#") {
                continue;
            }
            let rule = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8").and_then(Rule::parse);
            match rule {
                Ok(rule) => rules.extend(rule),
                Err(rule) => return Err(refused(index + 1, line, rule)),
            }
        }
        Ok(Self { rules })
    }

    /// Whether the file or directory at `path` (relative to the context, parts separated by one
    /// slash) is left out.
    pub fn is_ignored(&self, path: &str) -> bool {
        let mut verdict = Verdict::default();
        for (end, _) in path.match_indices('/') {
            verdict = self.judge(path.get(..end).unwrap_or_default(), &verdict);
        }
        self.judge(path, &verdict).ignored
    }

    /// Whether an exception might bring back something below the ignored `directory`. Where it says
    /// no, a walk need not enter.
    pub fn may_contain_exceptions(&self, directory: &str) -> bool {
        self.rules.iter().any(|rule| rule.exception && rule.glob.may_match_below(directory))
    }

    /// The cleaned texts of the exceptions, without their marks.
    #[cfg(test)]
    pub(super) fn exceptions(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter(|rule| rule.exception).map(|rule| rule.glob.text.as_str())
    }

    /// The verdict on `path`, whose parent's verdict was `parent` (the default at the top).
    pub(super) fn judge(&self, path: &str, parent: &Verdict) -> Verdict {
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
        Verdict { ignored, matched }
    }
}

impl Rule {
    /// One line; `None` where it says nothing.
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
        // Docker looks for the mark once more after cleaning, so `./!a` is an exception too.
        if let Some(rest) = pattern.strip_prefix('!').filter(|_| !exception) {
            (exception, pattern) = (true, rest);
        }
        if exception && matches!(pattern, "" | "/") {
            return Err("a ! has nothing after it");
        }
        Ok(Some(Self { exception, glob: Glob::parse(pattern)? }))
    }
}

fn refused(line: usize, text: &[u8], rule: &'static str) -> ContextError {
    let pattern = String::from_utf8_lossy(text).trim().chars().take(80).collect();
    ContextError::Pattern { line, pattern, rule }
}

/// The shortest path that means the same, by its text alone: no `.`, no doubled slash, each `..`
/// together with the part before it taken away.
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
