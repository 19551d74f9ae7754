//! The parts of a text that are secrets by their form: passwords in URLs and connection strings, values of options
//! and of names that mark secrets, tokens, and private keys.

use std::ops::Range;

use super::secret_names::{is_path, names_secret, upper_case};

/// A secret in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretPart {
    /// Its place in bytes.
    pub(super) range: Range<usize>,
    /// A name for it, in upper case.
    pub(super) name: String,
}

/// Beginnings of tokens of public services. The rest is random.
const TOKENS: &[&str] = &[
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "whsec_",
    "sk-",
    "AIza",
    "npm_",
    "hvs.",
    "dop_v1_",
    "dckr_pat_",
    "pypi-",
    "AGE-SECRET-KEY-",
    "SG.",
];
/// The fewest bytes of such a token.
const SHORTEST_TOKEN: usize = 20;
/// The fewest bytes of a name in a URL that is a key, without a password.
const SHORTEST_KEY: usize = 16;
/// Beginnings of URLs whose rest is the permission to post.
const HOOKS: &[&str] = &[
    "hooks.slack.com/services/",
    "discord.com/api/webhooks/",
    "discordapp.com/api/webhooks/",
    "webhook.office.com/webhookb2/",
    "api.telegram.org/bot",
];
/// Beginnings of hashes of passwords, as in `/etc/shadow` and in the files of `htpasswd`.
const HASHES: &[&str] =
    &["$1$", "$2a$", "$2b$", "$2x$", "$2y$", "$5$", "$6$", "$y$", "$apr1$", "$argon2", "$scrypt$", "$pbkdf2"];
/// The fewest bytes after the last `$` of such a hash.
const SHORTEST_HASH: usize = 22;
/// Beginnings of options that say something about a secret and take no value.
const SWITCHES: &[&str] =
    &["NO_", "SKIP_", "ALLOW_", "USE_", "ENABLE_", "DISABLE_", "WITH_", "WITHOUT_", "REQUIRE_"];

/// The secrets in a text, in order and without overlaps.
pub(super) fn secret_parts(text: &str) -> Vec<SecretPart> {
    let mut found =
        [logins(text), assignments(text), lines(text), tokens(text), hooks(text), keys(text), hashes(text)]
            .concat();
    found.extend(options(&[text]).into_iter().map(|(_, part)| part));
    without_overlaps(found)
}

/// Keeps the first of those that begin at one place, and the longest.
pub(super) fn without_overlaps(mut all: Vec<SecretPart>) -> Vec<SecretPart> {
    all.sort_by_key(|part| (part.range.start, std::cmp::Reverse(part.range.end)));
    let mut end = 0;
    all.retain(|part| {
        let is_free = part.range.start >= end && !part.range.is_empty();
        if is_free {
            end = part.range.end;
        }
        is_free
    });
    all
}

/// Whether a value stands for another one: `$NAME` of a shell, `{{ template }}`, `<your password>`.
fn is_reference(value: &str) -> bool {
    value.starts_with(['$', '{', '<', '`', '%', '*'])
}

fn part(text: &str, range: Range<usize>, name: &str) -> Option<SecretPart> {
    let value = &text[range.clone()];
    (!value.is_empty() && !is_reference(value)).then(|| SecretPart { range, name: upper_case(name) })
}

/// Ends a URL in a text.
fn ends_url(c: char) -> bool {
    c.is_whitespace() || "\"'`<>|".contains(c)
}

/// Passwords in `scheme://name:password@host` and in `name:password@tcp(host)`.
fn logins(text: &str) -> Vec<SecretPart> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let url = text[start..].split(ends_url).next().unwrap_or_default();
        let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
        let end = authority.rfind('@').or_else(|| {
            // A password may hold a slash. After a port, the path begins.
            let port = authority.split_once(':').map(|(_, port)| port);
            let is_port =
                port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty());
            url.rfind('@').filter(|_| !is_port)
        });
        let Some(end) = end else { continue };
        let login = &url[..end];
        let is_key = |name: &str| {
            name.len() >= SHORTEST_KEY
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
                && name.bytes().any(|b| b.is_ascii_digit())
        };
        match login.split_once(':') {
            Some((name, _)) => found.extend(part(text, start + name.len() + 1..start + end, "PASSWORD")),
            None if is_key(login) => found.extend(part(text, start..start + end, "KEY")),
            None => {}
        }
    }
    for (end, _) in text.match_indices("@tcp(").chain(text.match_indices("@unix(")) {
        let start = text[..end].rfind(|c: char| ends_url(c) || c == '=').map_or(0, |at| at + 1);
        if let Some((name, _)) = text[start..end].split_once(':') {
            found.extend(part(text, start + name.len() + 1..end, "PASSWORD"));
        }
    }
    found
}

/// Values of `name=value` whose name marks a secret, also as `--name=value`, `['name'] = 'value'`, and as a member of
/// JSON.
fn assignments(text: &str) -> Vec<SecretPart> {
    let mut found = Vec::new();
    for (at, sign) in text.match_indices(['=', ':']) {
        let before = text[..at].trim_end_matches([' ', '"', '\'', ']', '\\']);
        let is_quoted = text[before.len()..at].contains(['"', '\'']);
        let after = &text[at + 1..];
        let is_comparison = after.starts_with(['=', '~']) || before.ends_with(['=', '!', '<', '>', ':', '+']);
        if is_comparison || sign == ":" && !is_quoted {
            continue;
        }
        let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c));
        let start = start.map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let is_of_shell = before[..start].ends_with('$') || before[..start].ends_with("${");
        if is_of_shell {
            continue;
        }
        let name = before[start..].trim_start_matches('-');
        let Some(range) = value_at(text, at + 1) else { continue };
        found.extend(named(text, range, name));
    }
    found
}

/// The part of a value whose name marks it. Only the last word of `spring.datasource.password` counts.
fn named(text: &str, range: Range<usize>, name: &str) -> Option<SecretPart> {
    let value = &text[range.clone()];
    let last = name.rsplit('.').next().unwrap_or_default();
    // `PWD` is a password in connection strings, and a folder in shells.
    let is_password = upper_case(last) == "PWD" && !is_path(value) && !value.starts_with('/');
    if !is_password && (!names_secret(last, value) || is_path(value)) {
        return None;
    }
    part(text, range, last)
}

/// The value that begins at `at`: in quotes, or up to a sign that ends it.
fn value_at(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = text[at..].trim_start_matches([' ', '\\']);
    let start = text.len() - rest.len();
    if let Some(quote) = rest.chars().next().filter(|c| ['"', '\''].contains(c)) {
        let end = rest[1..].find(quote)?;
        let value = rest[1..=end].trim_end_matches('\\');
        return Some(start + 1..start + 1 + value.len());
    }
    let end = rest.char_indices().find(|(at, c)| match c {
        // In the options of a mount, a comma ends a value. In other texts, it may be part of it.
        ',' => rest[at + 1..].split(',').next().is_some_and(|next| next.contains('=')),
        c => c.is_whitespace() || ";&|\"'`()<>".contains(*c),
    });
    let end = end.map_or(rest.len(), |(at, _)| at);
    Some(start..start + end)
}

/// Values of lines such as `password: value` in a text of several lines.
fn lines(text: &str) -> Vec<SecretPart> {
    let mut found = Vec::new();
    if !text.trim_end().contains('\n') {
        return found;
    }
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some((name, value)) = line.split_once(": ") {
            let bare = value.trim_end();
            let bare = bare.trim_start_matches([' ', '"', '\'']);
            let begin = start + name.len() + 2 + (value.trim_end().len() - bare.len());
            let bare = bare.trim_end_matches(['"', '\'']);
            let name = name.trim_start_matches([' ', '-']);
            if !name.contains(' ') {
                found.extend(named(text, begin..begin + bare.len(), name));
            }
        }
        start += line.len();
    }
    found
}

/// A word of a command: the number of its item, and its place in it.
struct CommandWord {
    item: usize,
    range: Range<usize>,
}

/// Values after options such as `--token VALUE`, in the items of a command. Each part has the number of its item.
pub(super) fn options(items: &[&str]) -> Vec<(usize, SecretPart)> {
    let is_end = |c: char| c.is_whitespace() || "\"'`;|&()".contains(c);
    // Between the words of a list in a text.
    let is_noise = |text: &str| text.chars().all(|c| ",[]".contains(c));
    let mut words = Vec::new();
    for (item, text) in items.iter().enumerate() {
        let mut start = None;
        for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
            match (start, is_end(c)) {
                (None, false) => start = Some(at),
                (Some(begin), true) => {
                    if !is_noise(&text[begin..at]) {
                        words.push(CommandWord { item, range: begin..at });
                    }
                    start = None;
                }
                _ => {}
            }
        }
    }
    let text = |word: &CommandWord| &items[word.item][word.range.clone()];
    let mut found = Vec::new();
    let mut program = "";
    for (at, word) in words.iter().enumerate() {
        let this = text(word);
        let base = this.rsplit('/').next().unwrap_or_default();
        if ["redis-cli", "curl", "wget"].contains(&base)
            || base.starts_with("mysql")
            || base.starts_with("mariadb")
        {
            program = base;
        }
        let Some(next) = words.get(at + 1) else {
            found.extend(attached(items, word, program));
            continue;
        };
        let name = upper_case(this.trim_start_matches('-'));
        let names_next = match (program, this) {
            ("redis-cli", "-a") => true,
            ("curl", "-u" | "--user") => text(next).contains(':'),
            _ => {
                this.starts_with('-')
                    && !SWITCHES.iter().any(|switch| name.starts_with(switch))
                    && names_secret(&name, text(next))
                    && !is_path(text(next))
            }
        };
        if names_next && !text(next).starts_with('-') && !this.contains('=') {
            let name = if this.starts_with("--") { name.as_str() } else { "PASSWORD" };
            let whole = whole(items, word, next);
            found.extend(part(items[next.item], whole, name).map(|part| (next.item, part)));
        } else {
            found.extend(attached(items, word, program));
        }
    }
    // A header of HTTP.
    for (item, text) in items.iter().enumerate() {
        for (at, sign) in text.match_indices("Bearer ") {
            let start = at + sign.len();
            let value = text[start..].split(is_end).next().unwrap_or_default();
            let is_token = value.len() >= 8 && value.bytes().any(|b| b.is_ascii_digit());
            found.extend(
                part(text, start..start + value.len(), "TOKEN").filter(|_| is_token).map(|it| (item, it)),
            );
        }
    }
    found
}

/// The password in `-pPASSWORD` of MySQL's programs.
fn attached(items: &[&str], word: &CommandWord, program: &str) -> Option<(usize, SecretPart)> {
    let text = items[word.item];
    let is_mysql = program.starts_with("mysql") || program.starts_with("mariadb");
    let has_one = is_mysql && text[word.range.clone()].starts_with("-p");
    let range = word.range.start + 2..word.range.end;
    has_one.then(|| part(text, range, "PASSWORD")).flatten().map(|part| (word.item, part))
}

/// The value after an option: a whole item, a text in quotes, or a word.
fn whole(items: &[&str], option: &CommandWord, value: &CommandWord) -> Range<usize> {
    let text = items[value.item];
    if value.item != option.item && value.range.start == 0 {
        return 0..text.len();
    }
    let quote = text[..value.range.start].chars().next_back().filter(|c| ['"', '\''].contains(c));
    let end = quote.and_then(|quote| text[value.range.start..].find(quote));
    value.range.start..end.map_or(value.range.end, |end| value.range.start + end)
}

/// Tokens of public services, and JSON web tokens.
fn tokens(text: &str) -> Vec<SecretPart> {
    let is_in_token = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let mut found = Vec::new();
    let mut start = 0;
    for run in text.split(|c| !is_in_token(c)) {
        // Each run ends at one sign, which may be longer than a byte.
        let begin = start;
        start += run.len() + text[start + run.len()..].chars().next().map_or(0, char::len_utf8);
        let is_random = |rest: &str| rest.bytes().any(|b| b.is_ascii_digit());
        let is_known = run.len() >= SHORTEST_TOKEN
            && TOKENS.iter().any(|token| run.strip_prefix(token).is_some_and(is_random));
        let mut pieces = run.split('.');
        let is_web_token = pieces.next().is_some_and(|head| head.starts_with("eyJ") && head.len() >= 12)
            && pieces.next().is_some_and(|body| body.len() >= 8);
        if is_known || is_web_token {
            found.extend(part(text, begin..begin + run.len(), "TOKEN"));
        }
    }
    found
}

/// The rest of a URL that permits posting.
fn hooks(text: &str) -> Vec<SecretPart> {
    let mut found = Vec::new();
    for hook in HOOKS {
        for (at, _) in text.match_indices(hook) {
            let start = at + hook.len();
            let rest = text[start..].split(ends_url).next().unwrap_or_default();
            found.extend(part(text, start..start + rest.len(), "HOOK"));
        }
    }
    found
}

/// Hashes of passwords. Whoever reads one can guess the password without asking the program.
fn hashes(text: &str) -> Vec<SecretPart> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices('$') {
        let rest = &text[start..];
        let Some(scheme) = HASHES.iter().find(|scheme| rest.starts_with(**scheme)) else { continue };
        // The parameters of this one have commas. A comma between other hashes separates users.
        let is_in_hash =
            |c: char| c.is_ascii_alphanumeric() || "./$=+-".contains(c) || c == ',' && *scheme == "$argon2";
        let hash = rest.split(|c| !is_in_hash(c)).next().unwrap_or_default();
        let last = hash.rsplit('$').next().unwrap_or_default();
        if hash.matches('$').count() >= 3 && last.len() >= SHORTEST_HASH {
            let range = start..start + hash.len();
            found.push(SecretPart { range, name: "PASSWORD_HASH".to_owned() });
        }
    }
    found
}

/// Private keys in PEM.
fn keys(text: &str) -> Vec<SecretPart> {
    let mut found = Vec::new();
    for (start, sign) in text.match_indices("-----BEGIN ") {
        let after = &text[start + sign.len()..];
        let Some((kind, _)) = after.split_once("-----") else { continue };
        if !kind.ends_with("PRIVATE KEY") && !kind.ends_with("PRIVATE KEY BLOCK") {
            continue;
        }
        let end_sign = format!("-----END {kind}-----");
        let end = text[start..].find(&end_sign).map_or(text.len(), |at| start + at + end_sign.len());
        found.extend(part(text, start..end, "PRIVATE_KEY"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<&str> {
        secret_parts(text).into_iter().map(|part| &text[part.range]).collect()
    }

    #[test]
    fn secrets_are_found_by_their_form() {
        for (text, expected) in [
            ("postgres://u:pw@db/x", "pw"),
            ("--url=redis://:p/w@r:6379", "p/w"),
            ("smtp://a@x.org:pw@mail:25", "pw"),
            ("https://0123456789abcdef0123@sentry.io/1", "0123456789abcdef0123"),
            ("app:pw@tcp(db:3306)/x", "pw"),
            ("host=db user=app password=pw-9", "pw-9"),
            ("mysql:host=db;password=pw", "pw"),
            ("jdbc:postgresql://db/app?user=a&password=pw", "pw"),
            ("Server=db;User Id=sa;Pwd=pw;", "pw"),
            ("a = 1\ngitlab_rails['initial_root_password'] = 'p w'\n", "p w"),
            ("{\"user\": \"a\", \"password\": \"p w\"}", "p w"),
            ("{\\\"apiKey\\\":\\\"k1\\\"}", "k1"),
            ("log: x\npassword: pw # no\n", "pw # no"),
            ("username=a,password=pw,uid=1000", "pw"),
            ("password=a,b", "a,b"),
            ("redis-server --requirepass pw --appendonly yes", "pw"),
            ("redis-server --requirepass 'p w'", "p w"),
            ("serve --admin-password=pw x", "pw"),
            ("export PASSWORD=pw; exec app", "pw"),
            ("java -Dspring.datasource.password=pw -jar x", "pw"),
            ("redis-cli -a pw ping", "pw"),
            ("mysqladmin ping -uroot -ppw", "pw"),
            ("curl -u me:pw http://x", "me:pw"),
            ("curl -H 'Authorization: Bearer abcdefgh1' x", "abcdefgh1"),
            ("ghp_0123456789abcdefghij", "ghp_0123456789abcdefghij"),
            ("x eyJhbGciOiJIUzI1NiJ9.anon-secret-61 y", "eyJhbGciOiJIUzI1NiJ9.anon-secret-61"),
            ("https://hooks.slack.com/services/T0/B0/x", "T0/B0/x"),
        ] {
            assert_eq!(values(text), [expected], "{text}");
        }
        for (text, expected) in [
            (
                "a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/",
                &["$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"] as &[&str],
            ),
            (
                "a:$2y$05$QgoabVnNBN3gR4wezwQovOm0glw00bQvUPORrYxz7.rI/rnw07cBG,b:$1$abcdefgh$0123456789abcdefghijkl",
                &[
                    "$2y$05$QgoabVnNBN3gR4wezwQovOm0glw00bQvUPORrYxz7.rI/rnw07cBG",
                    "$1$abcdefgh$0123456789abcdefghijkl",
                ],
            ),
            (
                "x $argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObGd y",
                &["$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObGd"],
            ),
        ] {
            assert_eq!(values(text), expected, "{text}");
        }
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----";
        assert_eq!(values(&format!("a {key} b")), [key]);
        let found = options(&["serve", "--token", "a b", "--port", "80"]);
        let expected = SecretPart { range: 0..3, name: "TOKEN".to_owned() };
        assert_eq!(found, [(2, expected)]);
    }

    #[test]
    fn texts_without_a_secret_have_no_parts() {
        for text in [
            "postgres://u@db:5432/x",
            "postgres://u:$PW@db/x",
            "https://registry:4873/@scope/x",
            "git@github.com:a/b.git",
            "password=$PW",
            "PASSWORD=$(cat /run/secrets/pw)",
            "[ \"$TOKEN\" = x ]",
            "[ \"$TOKEN\" == x ]",
            "--password-file /run/secrets/x",
            "--no-password db",
            "--tls-key /certs/tls.key",
            "token=true",
            "--default-authentication-plugin=mysql_native_password",
            "--mysql-native-password=ON",
            "mysqladmin ping -p$MYSQL_PASSWORD",
            "Host(`tokens.example.com`) && PathPrefix(`/secret`)",
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
            "pwd=/srv/app",
            "traefik.http.middlewares.token-auth.address=http://x",
            "the password: choose it",
            "sk-example",
            "echo $1$2$3, $5$6 and $2a$",
            "\u{fc}://\u{e4}:=\u{20ac}",
        ] {
            assert!(values(text).is_empty(), "{text}: {:?}", values(text));
        }
    }
}
