//! `[environment.NAME.site]` and its tables.

use super::{Key, Section, ValueShape};

pub(in crate::model::manifest) static SITE: Section = Section {
    title: "environment.NAME.site",
    keys: &[
        Key::new("path", ValueShape::Text).default("all paths").example(r#""/api""#).meaning(
            "the path below which requests for the host names go to this environment. Several environments \
                can share a host name if their paths differ; the longest matching path wins. The published \
                port serves all paths",
        ),
        Key::new("strip_path", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the program gets `/users` for `/api/users`. The proxy then decodes the path and encodes it \
                again, so `%2F` reaches the program as `/`",
        ),
        Key::new("redirect_from", ValueShape::List("host names"))
            .default("`[]`")
            .example(r#"["www.example.com"]"#)
            .meaning(
                "names that the proxy redirects (308) to the first of `hostnames`, with path and query. They get \
                    certificates too",
            ),
        Key::new("max_body", ValueShape::Size)
            .default("no limit")
            .example(r#""10MiB""#)
            .meaning("the largest body of a request; a larger one gets 413"),
        Key::new("timeout", ValueShape::Duration).default(r#"`"1h"`"#).example(r#""60s""#).meaning(
            "how long the program, or a client that sends a body, may be silent; then the client gets 504 or is \
                cut off. It also ends silent WebSockets and event streams",
        ),
        Key::new("sticky", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the proxy keeps each client at one of the `replicas`, by a cookie, as long as that replica answers",
        ),
        Key::new("gzip", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the proxy compresses texts of at least 1 KiB for clients that accept it. Event \
                streams, images and answers that the program compressed stay unchanged. Over HTTPS, do not \
                compress pages that contain both secrets and input from the client (BREACH)",
        ),
        Key::new("basic_auth", ValueShape::Table(&BASIC_AUTH))
            .example(r#"{ secret_file = "/etc/abide/shop.htpasswd" }"#)
            .meaning(
                "user names and passwords, one of which every client must send: \
                    [`environment.NAME.site.basic_auth`](#environmentnamesitebasic_auth)",
            ),
        Key::new("allow", ValueShape::List("addresses and networks"))
            .default("all")
            .example(r#"["10.0.0.0/8"]"#)
            .meaning(
                "the only clients that are served; others get 403. Behind another proxy, needs `trusted_proxies` in \
                    [`front`](#front)",
            ),
        Key::new("deny", ValueShape::List("addresses and networks"))
            .default("`[]`")
            .example(r#"["192.0.2.7"]"#)
            .meaning("clients that get 403, even if `allow` has them"),
        Key::new("rate_limit", ValueShape::OneOf("text or table", &[ValueShape::Text, ValueShape::Table(&RATE_LIMIT)]))
            .default("no limit")
            .example(r#""10/s""#)
            .meaning(
                "the maximum rate of requests from one client address, per second (`/s`) or minute (`/m`); \
                    further requests get 429. The same number of requests may arrive at once; to set \
                    another burst, use a table: \
                    [`environment.NAME.site.rate_limit`](#environmentnamesiterate_limit)",
            ),
        Key::new("headers", ValueShape::AnyTable)
            .example(r#"{ X-Frame-Options = "DENY", X-Powered-By = "" }"#)
            .meaning(
                "headers of every response, which replace the program's own headers of the same names. An \
                    empty text removes the program's header. The proxy sends `Strict-Transport-Security` \
                    itself: see `https`",
            ),
        Key::new("access_log", ValueShape::Flag).default("`false`").example("true").meaning(
            "whether the proxy logs each request as a line of JSON in the log of its container, which keeps the last \
                30 MB: `docker logs`",
        ),
        Key::new("error_pages", ValueShape::AnyTable).default("abide's own").example(r#"{ 503 = "./sorry.html" }"#).meaning(
            "HTML files of this host for the proxy's own answers: 401, 403, 413, 429, 502, 503 and 504. The \
                program's own answers stay unchanged. abide loads a changed file within a minute. A path that begins \
                with `./` is relative to this folder",
        ),
    ],
};

pub(in crate::model::manifest) static BASIC_AUTH: Section = Section {
    title: "environment.NAME.site.basic_auth",
    keys: &[
        Key::new("secret_file", ValueShape::Path("of this host"))
            .default("one of the two is *required*")
            .example(r#""/etc/abide/shop.htpasswd""#)
            .meaning(
                "the file with a line `user:hash` for each user. `openssl passwd -6` prints a hash. nginx computes it \
                    at every request, so bcrypt above cost 6 and other expensive hashes are rejected",
            ),
        Key::new("secret_env", ValueShape::Text)
            .default("one of the two is *required*")
            .example(r#""SHOP_USERS""#)
            .meaning("the daemon's environment variable with these lines"),
        Key::new("realm", ValueShape::Text)
            .default("the environment's name")
            .example(r#""Shop""#)
            .meaning("what browsers show when they ask for the password"),
    ],
};

pub(in crate::model::manifest) static RATE_LIMIT: Section = Section {
    title: "environment.NAME.site.rate_limit",
    keys: &[
        Key::new("rate", ValueShape::Text).required().example(r#""10/s""#).meaning("the rate, as above"),
        Key::new("burst", ValueShape::Integer(0, 1_000_000))
            .default("the number of `rate`")
            .example("50")
            .meaning("how many requests may arrive at once beyond the rate"),
    ],
};
