//! `[job.NAME]`.

use super::one_off::{ENTRYPOINT, arguments};
use super::{Key, Section, ValueShape};
use crate::model::backup::MOST_KEPT;

pub(in crate::model::manifest) static JOB: Section = Section {
    title: "job.NAME",
    keys: &[
        Key::new("environment", ValueShape::Text)
            .required()
            .example(r#""prod""#)
            .meaning("the environment whose image, options and host the job uses"),
        arguments(r#"["./manage.py", "clearsessions"]"#),
        ENTRYPOINT,
        Key::new("backup", ValueShape::Table(&BACKUP)).example(r#"{ volume = "prod-db" }"#).meaning(
            "a volume of the environment to back up, instead of a command: [`job.NAME.backup`](#jobnamebackup)",
        ),
        Key::new("schedule", ValueShape::Text).required().example(r#""0 3 * * *""#).meaning(
            "when it runs, as a cron expression of five fields: minute, hour, day of the month, month, day of the \
             week",
        ),
        Key::new("zone", ValueShape::Text)
            .default(r#"`"UTC"`"#)
            .example(r#""Asia/Shanghai""#)
            .meaning("the time zone of the schedule"),
        Key::new("timeout", ValueShape::Duration)
            .default(r#"`"1h"`"#)
            .example(r#""30m""#)
            .meaning("the longest time that a run may take; then it is stopped and has failed"),
        Key::new("overlap", ValueShape::Text).default(r#"`"forbid"`"#).example(r#""replace""#).meaning(
            "what happens at a scheduled time while an earlier run continues: `\"forbid\"` skips the new run, \
             `\"allow\"` runs both, `\"replace\"` stops the earlier one",
        ),
        Key::new("retries", ValueShape::Integer(0, 10))
            .default("`0`")
            .example("2")
            .meaning("how often a failed run is repeated, with growing pauses, until the next scheduled time"),
        Key::new("catch_up", ValueShape::Duration).default(r#"`"1h"`"#).example(r#""6h""#).meaning(
            "how late a run may begin, such as after a pause of the host; at most 7 days. Of several missed times, \
             only the last one is caught up",
        ),
    ],
};

pub(in crate::model::manifest) static BACKUP: Section = Section {
    title: "job.NAME.backup",
    keys: &[
        Key::new("volume", ValueShape::Text)
            .required()
            .example(r#""prod-db""#)
            .meaning("the volume, which the environment mounts"),
        Key::new("command", ValueShape::List("texts"))
            .default("none: the container is paused meanwhile")
            .example(r#"["sh", "-c", "pg_dump -h prod-db shop > /data/shop.sql"]"#)
            .meaning(
                "a command that runs first, such as a dump of a database into the volume: in a separate \
                 container with the options of the environment. The environment's container then keeps running",
            ),
        ENTRYPOINT,
        Key::new("folder", ValueShape::Path("of the host"))
            .default("`/var/lib/abide/backups`")
            .example(r#""/srv/backups""#)
            .meaning(
                "the folder for the archives, on the host that runs the environment. abide creates it. The policy of \
                 an agent must allow it (`binds`)",
            ),
        Key::new("keep", ValueShape::Integer(1, MOST_KEPT as u64))
            .default("all")
            .example("7")
            .meaning("how many archives of this job to keep; each backup removes older ones"),
    ],
};
