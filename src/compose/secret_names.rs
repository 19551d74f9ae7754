//! Names that mark secrets.

/// Parts of names that mark a secret.
const MARKS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "REQUIREPASS",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "ENCRYPTION_KEY",
    "SIGNING_KEY",
    "MASTER_KEY",
    "APP_KEY",
    "CREDENTIAL",
    "SALT",
    "JWT_KEY",
    "LICENSE_KEY",
];
/// Ends of names that mark a secret.
const ENDS: &[&str] = &["_PASS", "_PWD", "_DSN", "_KEY_BASE", "_AUTH"];
/// Ends of names that usually mark a secret. Paths and names of other things have them too.
const WEAK_ENDS: &[&str] = &["PASS", "_KEY", "_COOKIE"];
/// Parts of names with a weak end whose values are no secrets.
const NOT_WEAK: &[&str] = &[
    "PUBLIC",
    "PUBLISHABLE",
    "PUB_KEY",
    "SITE_KEY",
    "CACHE_KEY",
    "ROUTING_KEY",
    "SORT_KEY",
    "PARTITION_KEY",
    "FOREIGN_KEY",
    "BYPASS",
    "COMPASS",
];
/// Names that mark a secret as a whole.
const WHOLE: &[&str] = &["PASS", "JWT", "PRIVATE", "MASTERAUTH"];
/// Ends of names whose values only describe a secret.
const HARMLESS_ENDS: &[&str] = &[
    "_FILE",
    "_PATH",
    "_DIR",
    "_EXPIRY",
    "_EXPIRES",
    "_EXPIRATION",
    "_EXPIRE",
    "_TTL",
    "_LENGTH",
    "_ENABLED",
    "_ENABLE",
    "_DISABLED",
    "_TIMEOUT",
    "_LIFETIME",
    "_ALGORITHM",
    "_ENCRYPTION",
    "_NAME",
    "_HEADER",
    "_ISSUER",
    "_AUDIENCE",
    "_MINUTES",
    "_SECONDS",
    "_DAYS",
    "_PORT",
    "_HOST",
    "_VERSION",
    "_TAG",
    "_IMAGE",
    "_ROOT",
    "_FOLDER",
    "_TYPE",
    "_METHOD",
    "_POLICY",
    "_MODE",
    "_FORMAT",
    "_STORE",
];
/// Values that switch something, whatever its name is.
const SWITCHES: &[&str] =
    &["", "true", "false", "yes", "no", "on", "off", "0", "1", "none", "null", "enabled", "disabled"];
/// The first folders of paths in containers.
const FOLDERS: &[&str] = &[
    "app", "bin", "cert", "certs", "config", "data", "etc", "home", "keys", "lib", "mnt", "opt", "root",
    "run", "secrets", "srv", "ssl", "tls", "tmp", "usr", "var",
];

/// Whether a value with this name is a secret: `DB_PASSWORD`, `session-key` and `authToken` are names of secrets.
pub(super) fn names_secret(name: &str, value: &str) -> bool {
    if SWITCHES.contains(&value.to_ascii_lowercase().as_str()) {
        return false;
    }
    let name = upper_case(name);
    if HARMLESS_ENDS.iter().any(|end| name.ends_with(end)) || value.starts_with("/run/secrets/") {
        return false;
    }
    let is_strong = MARKS.iter().any(|mark| name.contains(mark))
        || ENDS.iter().any(|end| name.ends_with(end))
        || WHOLE.contains(&name.as_str());
    let is_weak = WEAK_ENDS.iter().any(|end| name.ends_with(end))
        && !NOT_WEAK.iter().any(|part| name.contains(part))
        && !is_path(value);
    is_strong || is_weak
}

/// The name in upper case, with `_` between its words.
pub(super) fn upper_case(name: &str) -> String {
    let mut result = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && was_lower {
            result.push('_');
        }
        was_lower = c.is_ascii_lowercase();
        result.push(if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    }
    result
}

/// Whether a value is the path of a file. Base64 may begin with a slash too.
pub(super) fn is_path(value: &str) -> bool {
    let value = value.strip_prefix("file:").unwrap_or(value);
    let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/~".contains(c));
    let last = value.rsplit('/').next().unwrap_or_default();
    let is_known_file =
        [".pem", ".key", ".crt", ".cert", ".pub", ".json"].iter().any(|end| last.ends_with(end));
    let folder = value.trim_start_matches('/').split('/').next().unwrap_or_default();
    let begins_as_path = value.starts_with(['.', '~'])
        || value.starts_with('/') && (FOLDERS.contains(&folder) || last.contains('.'));
    is_plain && (is_known_file || begins_as_path && value.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mark_secrets_in_each_way_of_writing_them() {
        for name in [
            "POSTGRES_PASSWORD",
            "db-password",
            "SECRET_KEY_BASE",
            "GITHUB_TOKEN",
            "SMTP_PASS",
            "PGPASS",
            "AWS_SECRET_ACCESS_KEY",
            "MYSQL_PWD",
            "SERVICE_ROLE_KEY",
            "ANON_KEY",
            "VAULT_ENC_KEY",
            "TOTP_VAULT_KEY",
            "ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY",
            "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY",
            "SESSION_KEY",
            "sessionKey",
            "authToken",
            "RABBITMQ_ERLANG_COOKIE",
            "JWT",
            "PRIVATE",
            "requirepass",
            "SENTRY_DSN",
        ] {
            assert!(names_secret(name, "x1"), "{name}");
        }
    }

    #[test]
    fn names_that_only_describe_a_secret_and_switches_are_harmless() {
        for (name, value) in [
            ("POSTGRES_USER", "x"),
            ("POSTGRES_PASSWORD_FILE", "/x"),
            ("TOKEN_EXPIRY", "3600"),
            ("MYSQL_ALLOW_EMPTY_PASSWORD", "yes"),
            ("NEO4J_AUTH", "none"),
            ("password_encryption", "scram-sha-256"),
            ("SECRET_KEY", ""),
            ("VAPID_PUBLIC_KEY", "BBx"),
            ("RECAPTCHA_SITE_KEY", "x"),
            ("AWS_KEY_ID", "x"),
            ("CACHE_KEY", "x"),
            ("SERVER_SSL_KEY", "/usr/share/certs/key.pem"),
            ("TLS_KEY", "server.key"),
            ("BYPASS", "x"),
            ("KEYCLOAK_URL", "x"),
        ] {
            assert!(!names_secret(name, value), "{name}");
        }
        // Not each text with a slash is a path.
        assert!(names_secret("SIGNING_DATA_KEY", "/9j4AAQSkZJRg") && names_secret("X_KEY", "abc/def"));
    }
}
