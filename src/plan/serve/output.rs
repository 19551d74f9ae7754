//! The last output of a container, in one line. It appears in statuses, logs and terminals.

use std::slice;

use crate::model::container::{ContainerOptions, Secret};
use crate::model::observed::ObservedContainer;
use crate::model::redact::{Redactor, is_deceptive};

/// The number of characters that are shown, counted from the end.
const LAST_CHARACTERS: usize = 600;

/// Returns the last output as a clause, without the values of its secrets.
pub(super) fn last_output(options: &ContainerOptions, container: &ObservedContainer) -> String {
    match last_output_alone(Some(options), container).as_str() {
        "" => String::new(),
        shown => format!("; its last output: {shown}"),
    }
}

/// Returns the last output without the values of its secrets.
pub(super) fn last_output_alone(options: Option<&ContainerOptions>, container: &ObservedContainer) -> String {
    let output = container.last_output.as_deref().unwrap_or_default();
    without_secrets(options, slice::from_ref(container), output)
}

/// Returns the output of a program or its health check in one line, without the values of its secrets: the present
/// ones, and those that `containers` still have from before a change. `options` is `None` if they cannot be read now.
pub(crate) fn without_secrets(
    options: Option<&ContainerOptions>,
    containers: &[ObservedContainer],
    output: &str,
) -> String {
    let present = options.into_iter().flat_map(ContainerOptions::secret_values);
    let earlier = containers.iter().flat_map(|container| earlier_values(options, container));
    // Before any truncation, which would leave a part of a value.
    presentable(&Redactor::new(present.chain(earlier)).redacted(output))
}

/// The values in a container that are, or could have been, secret: its secret files, and the variables that are
/// declared secret or that have another value now, or all of them if nothing is known about them.
fn earlier_values<'a>(
    options: Option<&'a ContainerOptions>,
    container: &'a ObservedContainer,
) -> impl Iterator<Item = &'a Secret> {
    let is_hidden = move |name: &String, value: &Secret| match options {
        None => true,
        Some(options) if options.secrets.contains(name) => true,
        Some(options) => options.env.get(name).is_some_and(|declared| declared != value),
    };
    let variables = container.env.iter().filter(move |(name, value)| is_hidden(name, value));
    variables.map(|(_, value)| value).chain(&container.secret_files)
}

fn presentable(output: &str) -> String {
    let lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join(" | ");
    let start = joined.char_indices().rev().nth(LAST_CHARACTERS).map_or(0, |(at, _)| at);
    joined[start..].chars().map(|c| if is_deceptive(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_secret_appears_in_truncated_output() {
        let key = "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34Gkx\nFhD4Q9Zxw8n3aQ==\n-----END KEY-----";
        let text =
            format!("cannot use\n{key}\n  MIIBOgIBAAJBAKj34Gkx\nFhD4Q9Zxw8n3aQ==\n{}", "x".repeat(570));
        let shown = presentable(&Redactor::new([&Secret::new(key), &Secret::new("on")]).redacted(&text));
        assert!(!shown.contains("3aQ==") && !shown.contains("34Gkx"), "{shown}");
        assert!(shown.contains("[redacted] | [redacted] | xxx"), "{shown}");
        assert!(shown.chars().count() <= LAST_CHARACTERS + 1);
        assert_eq!(presentable("a\n\n b\u{1b}[2J\u{202e} \n"), "a | b\u{fffd}[2J\u{fffd}");
    }
}
