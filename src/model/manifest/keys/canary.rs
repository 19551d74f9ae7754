//! `[environment.NAME.canary]`.

use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static CANARY: Section = Section {
    title: "environment.NAME.canary",
    keys: &[
        Key::new("percent", ValueShape::Integer(1, 99))
            .default("10")
            .example("25")
            .meaning("the share of the visitors that get the new version. A cookie keeps each visitor at one version"),
        Key::new("for", ValueShape::Duration)
            .default("`\"15m\"`")
            .example(r#""1h""#)
            .meaning("how long the new version serves them before it takes over"),
        Key::new("fail_on", ValueShape::Text)
            .default("`\"5xx > 1%\"`")
            .example(r#""5xx > 0.5%""#)
            .meaning(
                "the share of requests with a status from 500 above which the new version is removed: after 100 requests \
                    at once, else at the end. One failed request alone never counts",
            ),
    ],
};
