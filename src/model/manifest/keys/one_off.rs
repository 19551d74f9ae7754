//! `release` and `after` of `[environment.NAME]`.

use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static HOOK: Section = Section {
    title: "environment.NAME.release",
    keys: &[
        arguments(r#"["./manage.py", "migrate"]"#),
        ENTRYPOINT,
        Key::new("timeout", ValueShape::Duration)
            .default(r#"`"10m"`"#)
            .example(r#""30m""#)
            .meaning("the longest time that the command may take; then it is stopped and has failed"),
    ],
};

/// `command` of whatever runs once.
pub(super) const fn arguments(example: &'static str) -> Key {
    Key::new("command", ValueShape::List("texts"))
        .default("none beside `entrypoint`")
        .example(example)
        .meaning(
            "arguments after the entrypoint, as in compose: the environment's `entrypoint`, else that of the \
         image. One of `command` and `entrypoint` is required",
        )
}

/// `entrypoint` of whatever runs once.
pub(super) const ENTRYPOINT: Key = Key::new("entrypoint", ValueShape::List("texts"))
    .default("that of the environment")
    .example(r#"["/bin/sh", "-c"]"#)
    .meaning("the program and its first arguments, instead of the environment's");
