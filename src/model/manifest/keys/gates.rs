//! `promote` and `verify` of `[environment.NAME]`.

use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static PROMOTE: Section = Section {
    title: "environment.NAME.promote",
    keys: &[
        Key::new("from", ValueShape::Text).required().example(r#""test""#).meaning("the environment to promote from"),
        Key::new("approvals", ValueShape::Integer(0, 20)).default("`0`").example("1").meaning(
            "how many people must approve the image with `abide approve`. An approval covers one image and \
             these gates: it lapses when either changes",
        ),
        Key::new("by", ValueShape::List("texts")).default("everyone who may approve").example(r#"["qa"]"#).meaning(
            "the names of the tokens, or of users of this host, whose approvals count",
        ),
        Key::new("others_only", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether abide ignores approvals by a person who pushed, set or promoted the image. It \
             identifies people by their tokens, and users of the forge by name",
        ),
        Key::new("soak", ValueShape::Duration).example(r#""30m""#).meaning(
            "how long, in total, the source must have run the image as healthy. Time in which abide did not \
             observe the image does not count",
        ),
        Key::new("verified", ValueShape::Flag)
            .default("`false`")
            .example("true")
            .meaning("whether the `verify` of the source must have passed"),
        Key::new("checks", ValueShape::List("texts")).example(r#"["ci/build"]"#).meaning(
            "checks of the image's commit that must have passed in the forge of its repository: \
             [green commits only](../docs/feedback.md#green-commits-only)",
        ),
        Key::new("signed_by", ValueShape::Path("of this host")).example(r#""keys/release.pub""#).meaning(
            "a file with a public key in PEM, relative to this folder, by which the image must be signed with \
             cosign: [signatures](../docs/promotion-gates.md#signatures)",
        ),
        Key::new("windows", ValueShape::Tables(&WINDOW)).default("always").meaning(
            "the times at which promotions are allowed: \
             [`environment.NAME.promote.windows`](#environmentnamepromotewindows)",
        ),
        Key::new("freezes", ValueShape::Tables(&FREEZE)).meaning(
            "the times at which promotions are not allowed: \
             [`environment.NAME.promote.freezes`](#environmentnamepromotefreezes)",
        ),
        Key::new("auto", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether abide promotes on its own once every gate is open. It never promotes an image that this \
             environment had before, so it never repeats one that was rolled back",
        ),
    ],
};

pub(in crate::model::manifest) static WINDOW: Section = Section {
    title: "environment.NAME.promote.windows",
    keys: &[
        Key::new("days", ValueShape::Text)
            .default("every day")
            .example(r#""mon-thu, sat""#)
            .meaning("the days on which the window opens: names, ranges, or both"),
        Key::new("hours", ValueShape::Text).default("the whole day").example(r#""09:00-16:00""#).meaning(
            "the wall-clock times of opening and closing. A closing time that is not later than the opening is \
             on the next day",
        ),
        Key::new("zone", ValueShape::Text).required().example(r#""Asia/Shanghai""#).meaning(
            "the time zone, by name. Daylight saving time is taken into account. Needs the package `tzdata` on \
             this host, except for `\"UTC\"`",
        ),
    ],
};

pub(in crate::model::manifest) static FREEZE: Section = Section {
    title: "environment.NAME.promote.freezes",
    keys: &[
        Key::new("from", ValueShape::Text)
            .required()
            .example(r#""2026-12-20""#)
            .meaning("the first day, or the first moment such as `\"2026-12-20 18:00\"`"),
        Key::new("to", ValueShape::Text)
            .required()
            .example(r#""2027-01-04""#)
            .meaning("the last day, which counts as a whole, or the moment at which the freeze ends"),
        Key::new("zone", ValueShape::Text)
            .default("that of the first window, else UTC")
            .example(r#""Asia/Shanghai""#)
            .meaning("the time zone"),
    ],
};

pub(in crate::model::manifest) static VERIFY: Section = Section {
    title: "environment.NAME.verify",
    keys: &[
        Key::new("command", ValueShape::List("texts"))
            .required()
            .example(r#"["/smoke", "--url", "{url}"]"#)
            .meaning(
                "program and arguments; `{url}` stands for the address of the environment. Exit code 0 means \
                 that the check passed",
            ),
        Key::new("image", ValueShape::Text)
            .default("the image of the environment")
            .example(r#""curlimages/curl:8.11.0""#)
            .meaning("the image that the command runs in; pulled if it is missing"),
        Key::new("timeout", ValueShape::Duration)
            .default(r#"`"5m"`"#)
            .example(r#""2m""#)
            .meaning("the longest time that the command may take"),
    ],
};
