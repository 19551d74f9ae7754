//! One pattern of an ignore file, matched as Docker matches it.
//!
//! Docker translates a pattern into a regular expression, except for three shapes that it compares as plain
//! text. The shape matters: `**foo` is compared as a suffix and matches `a/barfoo`, while `**fo?` is an
//! expression that matches only whole names. So abide reproduces the shapes. It runs an expression over all
//! positions at once, which takes linear time for every pattern.
//!
//! In cases in which Docker's translation leaks its regular expressions, abide follows the documented meaning
//! instead: `|`, `{`, `}` and `^` outside of brackets, `\` before a letter, and `*`, `?` and `[:` inside of
//! brackets are literal.

/// A compiled pattern, without its `!`.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    pub(super) text: String,
    shape: GlobShape,
}

#[derive(Clone, Debug)]
enum GlobShape {
    /// The exact path.
    Exact,
    /// `head**`: paths that begin with the head.
    Prefix(String),
    /// `**tail`: paths that end with the tail.
    Suffix(String),
    /// Anything else.
    Expression(Expression),
}

#[derive(Clone, Debug)]
struct Expression {
    tokens: Vec<GlobToken>,
    /// The literal text at the beginning of every match, which rejects most paths quickly.
    head: String,
    /// The literal text at the end of every match.
    tail: String,
}

#[derive(Clone, Debug, PartialEq)]
enum GlobToken {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Any,
    /// `[...]`; unlike `?`, Docker lets it match a slash.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `**` or `**/` before other tokens: any number of whole directories.
    Directories,
    /// `**` at the end.
    Rest,
}

/// The errors of Docker's syntax check.
const UNENDED_CLASS: &str = "a [ without a ]";
const MISPLACED: &str = "a - or ] is misplaced within [ ]";
const REVERSED: &str = "a range within [ ] ends before it begins";
const LONE_BACKSLASH: &str = "nothing follows a \\";

impl Glob {
    /// Compiles a cleaned pattern.
    ///
    /// # Errors
    /// Returns the rule that the pattern breaks.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let tokens = tokens(text)?;
        let shape = shape(text, tokens);
        Ok(Self { text: text.to_owned(), shape })
    }

    /// Whether `path` itself matches; the caller handles its parents.
    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.shape {
            GlobShape::Exact => path == self.text,
            GlobShape::Prefix(head) => path.starts_with(head.as_str()),
            GlobShape::Suffix(tail) => path.ends_with(tail.as_str()) || tail.strip_prefix('/') == Some(path),
            GlobShape::Expression(expression) => expression.matches(path),
        }
    }

    /// Whether a path below `directory` might match. False positives are possible, false negatives are not.
    pub(super) fn may_match_below(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        match &self.shape {
            GlobShape::Exact => self.text.starts_with(&below),
            GlobShape::Prefix(head) => head.starts_with(&below) || below.starts_with(head.as_str()),
            GlobShape::Suffix(_) => true,
            GlobShape::Expression(expression) => expression.may_match_after(&below),
        }
    }
}

/// Docker's choice of comparison, quirks included.
fn shape(text: &str, tokens: Vec<GlobToken>) -> GlobShape {
    let plain = |tokens: &[GlobToken]| tokens.iter().all(|t| matches!(t, GlobToken::Literal(_)));
    // Docker uses an expression after the first bracket or escape, even if it changes nothing.
    let bracketed = text.contains(['[', ']', '\\']);
    match tokens.as_slice() {
        [] => GlobShape::Exact,
        _ if bracketed => GlobShape::Expression(Expression::new(tokens)),
        all if plain(all) => GlobShape::Exact,
        [head @ .., GlobToken::Rest] if plain(head) && !head.is_empty() => GlobShape::Prefix(literal(head)),
        // Here the slash of `**/` belongs to the tail: `**/foo` does not match `barfoo` as a suffix.
        [GlobToken::Directories | GlobToken::Rest, tail @ ..] if plain(tail) => {
            GlobShape::Suffix(text.strip_prefix("**").unwrap_or_default().to_owned())
        }
        _ => GlobShape::Expression(Expression::new(tokens)),
    }
}

fn literal<'a>(tokens: impl IntoIterator<Item = &'a GlobToken>) -> String {
    let chars = tokens.into_iter().map_while(|t| if let GlobToken::Literal(c) = t { Some(*c) } else { None });
    chars.collect()
}

impl Expression {
    fn new(tokens: Vec<GlobToken>) -> Self {
        let head = literal(&tokens);
        let tail = literal(tokens.iter().rev()).chars().rev().collect();
        Self { tokens, head, tail }
    }

    fn matches(&self, path: &str) -> bool {
        if !path.starts_with(&self.head) || !path.ends_with(&self.tail) {
            return false;
        }
        let path: Vec<char> = path.chars().collect();
        let mut reached = start(path.len());
        for token in &self.tokens {
            reached = token.step(&path, &reached);
        }
        reached.last() == Some(&true)
    }

    /// Whether some of the tokens can match `beginning`, so that the rest may match after it.
    fn may_match_after(&self, beginning: &str) -> bool {
        let beginning: Vec<char> = beginning.chars().collect();
        let mut reached = start(beginning.len());
        self.tokens.iter().any(|token| {
            reached = token.step(&beginning, &reached);
            reached.last() == Some(&true)
        })
    }
}

/// Before any token, only the first position is reached.
fn start(length: usize) -> Vec<bool> {
    let mut reached = vec![false; length + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    reached
}

impl GlobToken {
    /// The positions between the characters of `path` that this token reaches from the positions `from`.
    fn step(&self, path: &[char], from: &[bool]) -> Vec<bool> {
        let mut reached = Vec::with_capacity(from.len());
        let mut last = self.may_be_empty() && from.first() == Some(&true);
        let mut open = false;
        reached.push(last);
        for (&c, pair) in path.iter().zip(from.windows(2)) {
            let (before, here) = (pair.first() == Some(&true), pair.last() == Some(&true));
            open |= before;
            last = match self {
                Self::Any => here || last && c != '/',
                // Docker's `.*` stops at a line break.
                Self::Rest => here || last && c != '\n',
                Self::Directories => here || open && c == '/',
                _ => before && self.takes(c),
            };
            open &= c != '\n';
            reached.push(last);
        }
        reached
    }

    fn may_be_empty(&self) -> bool {
        matches!(self, Self::Any | Self::Rest | Self::Directories)
    }

    fn takes(&self, c: char) -> bool {
        match self {
            Self::Literal(own) => *own == c,
            Self::One => c != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c)) != *negated
            }
            Self::Any | Self::Rest | Self::Directories => false,
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn tokens(pattern: &str) -> Result<Vec<GlobToken>, &'static str> {
    let mut chars = pattern.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => stars(&mut chars),
            '?' => GlobToken::One,
            '[' => class(&mut chars)?,
            '\\' => GlobToken::Literal(chars.next().ok_or(LONE_BACKSLASH)?),
            other => GlobToken::Literal(other),
        });
    }
    Ok(tokens)
}

fn stars(chars: &mut Chars<'_>) -> GlobToken {
    if chars.next_if_eq(&'*').is_none() {
        return GlobToken::Any;
    }
    chars.next_if_eq(&'/');
    if chars.peek().is_some() { GlobToken::Directories } else { GlobToken::Rest }
}

fn class(chars: &mut Chars<'_>) -> Result<GlobToken, &'static str> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let from = class_char(chars)?;
        let to = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { from };
        if to < from {
            return Err(REVERSED);
        }
        ranges.push((from, to));
    }
    Ok(GlobToken::Class { negated, ranges })
}

fn class_char(chars: &mut Chars<'_>) -> Result<char, &'static str> {
    match chars.next().ok_or(UNENDED_CLASS)? {
        '-' | ']' => Err(MISPLACED),
        '\\' => chars.next().ok_or(LONE_BACKSLASH),
        other => Ok(other),
    }
}
