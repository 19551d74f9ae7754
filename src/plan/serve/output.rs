//! The last output of a container, in one line. It appears in statuses, logs and terminals.

use crate::model::container::{ContainerOptions, Secret};
use crate::model::observed::ObservedContainer;

/// Shorter secrets remain in a container's output: they cannot be distinguished from ordinary text.
const SHORTEST_SECRET: usize = 4;
/// The number of characters that are shown, counted from the end.
const LAST_CHARACTERS: usize = 600;

/// Returns the last output as a clause, without the values of the secret variables.
pub(super) fn last_output(options: &ContainerOptions, container: &ObservedContainer) -> String {
    let output = container.last_output.as_deref().unwrap_or_default();
    match without_secrets(Some(options), output).as_str() {
        "" => String::new(),
        shown => format!("; its last output: {shown}"),
    }
}

/// Returns the output of a program or its health check in one line, without the values of its secret
/// variables.
pub(super) fn without_secrets(options: Option<&ContainerOptions>, output: &str) -> String {
    let secrets = options.iter().flat_map(|options| options.secret_values().map(Secret::expose));
    presentable(&redacted(output, secrets))
}

/// Removes values, and each line of multi-line values: a program may indent them, or only the last line may
/// be visible. This comes before any truncation, which would leave a part of a value.
fn redacted<'a>(output: &str, values: impl Iterator<Item = &'a str>) -> String {
    let mut parts: Vec<&str> = values.flat_map(|value| [value].into_iter().chain(value.lines())).collect();
    parts.retain(|part| part.trim().len() >= SHORTEST_SECRET);
    // The longest first: a value may be a part of another one.
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.into_iter().fold(output.to_owned(), |text, part| text.replace(part, "[redacted]"))
}

fn presentable(output: &str) -> String {
    let lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join(" | ");
    let start = joined.char_indices().rev().nth(LAST_CHARACTERS).map_or(0, |(at, _)| at);
    joined[start..].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_value_is_shown_however_it_is_written_and_cut() {
        let key = "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34Gkx\nFhD4Q9Zxw8n3aQ==\n-----END KEY-----";
        let told =
            format!("cannot use\n{key}\n  MIIBOgIBAAJBAKj34Gkx\nFhD4Q9Zxw8n3aQ==\n{}", "x".repeat(570));
        let shown = presentable(&redacted(&told, [key, "on"].into_iter()));
        assert!(!shown.contains("3aQ==") && !shown.contains("34Gkx"), "{shown}");
        assert!(shown.contains("[redacted] | [redacted] | xxx"), "{shown}");
        assert!(shown.chars().count() <= LAST_CHARACTERS + 1);
        assert_eq!(presentable("a\n\n b\u{1b}[2J \n"), "a | b\u{fffd}[2J");
    }
}
