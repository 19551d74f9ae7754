//! Which variables hold secrets, by their names.

/// Parts of names that mark a secret.
const MARKS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
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
const ENDS: &[&str] = &["_PASS", "_PWD", "_DSN", "_KEY_BASE", "_AUTH", "DBPASS"];
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
    "_NAME",
    "_HEADER",
    "_ISSUER",
    "_AUDIENCE",
    "_MINUTES",
    "_SECONDS",
    "_DAYS",
];

/// Whether a variable of this name and value is a secret. Its value decides only if its name does not.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    if value.is_empty()
        || ["true", "false", "yes", "no", "0", "1"].contains(&value.to_ascii_lowercase().as_str())
    {
        return false;
    }
    if has_login(value) {
        return true;
    }
    let is_harmless =
        HARMLESS_ENDS.iter().any(|end| name.ends_with(end)) || value.starts_with("/run/secrets/");
    let is_marked = MARKS.iter().any(|mark| name.contains(mark))
        || ENDS.iter().any(|end| name.ends_with(end))
        || name == "PASS";
    is_marked && !is_harmless
}

/// Whether a URL has a password in it.
fn has_login(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A password may hold a slash.
    let login = authority.rsplit_once('@').or_else(|| rest.rsplit_once('@')).map(|(login, _)| login);
    login.and_then(|login| login.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_detected_by_name_and_url() {
        for (name, value) in [
            ("POSTGRES_PASSWORD", "x"),
            ("db-password", "x"),
            ("SECRET_KEY_BASE", "x"),
            ("GITHUB_TOKEN", "x"),
            ("DATABASE_URL", "postgres://u:p@db/x"),
            ("REDIS", "redis://:pw@redis:6379"),
            ("SMTP_PASS", "x"),
            ("SENTRY_DSN", "https://a@b/1"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("MYSQL_PWD", "x"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [
            ("POSTGRES_USER", "x"),
            ("POSTGRES_PASSWORD_FILE", "/run/secrets/db"),
            ("TOKEN_EXPIRY", "3600"),
            ("MYSQL_ALLOW_EMPTY_PASSWORD", "yes"),
            ("DATABASE_URL", "postgres://db/x"),
            ("REDIS_URL", "redis://redis:6379/0"),
            ("SECRET_KEY", ""),
        ] {
            assert!(!is_secret(name, value), "{name}");
        }
    }
}
