//! Secrets: the manifest names them, and their values are stored elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeValue;

use super::grammar;
use super::keys;
use super::table::{ManifestField, Table, integer};
use crate::model::env_file::EnvFile;
use crate::model::forge::ForgeToken;
use crate::model::mount::{AbsolutePath, Mount};
use crate::model::options::RunOptions;
use crate::model::secret_file::{self, SecretFile};
use crate::model::spec::{EnvValue, FrontSpec, Login, Manifest, Overlay, Recipe, SecretRef};

/// Reads the secret that a table names with exactly one of `secret_env` and `secret_file`.
pub(super) fn read(table: &Table<'_>) -> Option<SecretRef> {
    match &table.present(&["secret_env", "secret_file"])[..] {
        [field] if field.key() == "secret_env" => {
            field.parsed("the name of a variable", grammar::secret_variable).map(SecretRef::SecretEnv)
        }
        [field] => field.parsed("the path of a file", grammar::host_path).map(SecretRef::SecretFile),
        found => {
            let which = if found.is_empty() { "needs" } else { "accepts only" };
            table.problem(format!("`{}` {which} one of `secret_env` and `secret_file`", table.path()));
            None
        }
    }
}

/// Reads a table of environment variables.
pub(super) fn variables(field: &ManifestField<'_>) -> BTreeMap<String, EnvValue> {
    let read = |entry: ManifestField<'_>| {
        if let Err(predicate) = grammar::variable(entry.key()) {
            entry.must(predicate);
        }
        let value = value(&entry)?;
        if let EnvValue::Plain(text) = &value
            && let Err(predicate) = grammar::argument(entry.key().len() + "=".len() + text.len())
        {
            entry.must(predicate);
        }
        Some((entry.key().to_owned(), value))
    };
    field.entries().into_iter().filter_map(read).collect()
}

/// Reads a plain value or a reference to a secret.
pub(super) fn value(field: &ManifestField<'_>) -> Option<EnvValue> {
    match field.value() {
        DeValue::Table(_) => read(&field.table(&keys::SECRET)?).map(EnvValue::Secret),
        _ => plain(field).map(EnvValue::Plain),
    }
}

/// Reads a text, number or flag as the text that a program gets.
pub(super) fn plain(field: &ManifestField<'_>) -> Option<String> {
    match field.value() {
        DeValue::String(_) => field.text().map(str::to_owned),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => {
            let found = integer(number);
            if found.is_none() {
                field.must("is too large a number: put it in quotes");
            }
            found.map(|number| number.to_string())
        }
        _ => {
            field.wrong(
                "a text, a number, true or false, { secret_env = \"...\" } or { secret_file = \"...\" }",
            );
            None
        }
    }
}

/// Reads the secrets that a container gets as files, by name.
pub(super) fn files(table: &Table<'_>) -> BTreeMap<String, SecretFile> {
    let field = table.get("secrets");
    let entries = field.iter().flat_map(ManifestField::entries);
    let files: BTreeMap<_, _> =
        entries.filter_map(|entry| Some((entry.key().to_owned(), file(&entry)?))).collect();
    let is_read_only =
        table.get("read_only").is_some_and(|field| matches!(field.value(), DeValue::Boolean(true)));
    if let (Some(field), true, false) = (&field, is_read_only, files.is_empty()) {
        field.must("does not go with `read_only`: the files could not be written; mount them with `volumes`");
    }
    files
}

/// Checks that each secret's file is the container's own. Below a file system in memory it would be hidden, and below a
/// mount it would be written into the volume and remain there.
pub(super) fn check_places(table: &Table<'_>, run: &RunOptions, volumes: &[Mount]) {
    let Some(field) = table.get("secrets") else { return };
    let is_in = |outer: &AbsolutePath, target: &AbsolutePath| outer == target || outer.holds(target);
    let mut others: Vec<(&String, &AbsolutePath)> = Vec::new();
    for (name, SecretFile { target, .. }) in &run.secrets {
        if let Some(memory) = run.settings.memory_paths().find(|memory| is_in(memory, target)) {
            field.must(format!(
                "must not put `{name}` at {target}, below {memory} of `tmpfs`, which would hide it: set another \
                 `target`, or mount less in memory"
            ));
        }
        if let Some(mount) = volumes.iter().find(|mount| is_in(mount.target(), target)) {
            field.must(format!(
                "must not put `{name}` at {target}, where it would be written into `{}`, which is mounted at {}: \
                 set another `target`",
                mount.source().as_str(),
                mount.target()
            ));
        }
        let twin = others.iter().find(|(_, other)| is_in(other, target) || is_in(target, other));
        if let Some((other, place)) = twin {
            field.must(format!("must not put `{name}` at {target}, because `{other}` is a file at {place}"));
        }
        others.push((name, target));
    }
}

fn file(entry: &ManifestField<'_>) -> Option<SecretFile> {
    if let Err(predicate) = grammar::build_id(entry.key()) {
        entry.must(predicate);
    }
    let table = entry.table(&keys::SECRET_FILE)?;
    let number = |key| table.get(key).map(|field: ManifestField<'_>| field.integer(0, u64::from(u32::MAX)));
    let owner = |key| number(key).flatten().and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let mode = table.get("mode").and_then(|field| mode(&field)).unwrap_or(secret_file::READABLE);
    let target = table.get("target").map_or(Some(entry.key()), |field| field.text())?;
    let target =
        if target.starts_with('/') { target.to_owned() } else { format!("{}/{target}", secret_file::FOLDER) };
    let target = AbsolutePath::parse("`target`", &target).map_err(|error| entry.must(error.to_string())).ok();
    let (uid, gid) = (owner("uid"), owner("gid"));
    Some(SecretFile { secret: read(&table)?, target: target?, mode, uid, gid })
}

/// Reads the mode of a file: as text in octal digits, or as a number such as `0o400`.
fn mode(field: &ManifestField<'_>) -> Option<u32> {
    const EXPECTED: &str = "the mode of a file such as \"0400\"";
    let octal = |text: &str| u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    match field.value() {
        DeValue::Integer(number) => {
            let mode =
                integer(number).and_then(|mode| u32::try_from(mode).ok()).filter(|mode| *mode <= 0o777);
            if mode.is_none() {
                field.must(format!("must be {EXPECTED}"));
            }
            mode
        }
        _ => field.parsed(EXPECTED, |text| octal(text).ok_or_else(|| format!("must be {EXPECTED}"))),
    }
}

/// Reads BuildKit secrets by id.
pub(super) fn build_secrets(field: &ManifestField<'_>) -> BTreeMap<String, SecretRef> {
    let read = |entry: ManifestField<'_>| {
        if let Err(predicate) = grammar::build_id(entry.key()) {
            entry.must(predicate);
        }
        Some((entry.key().to_owned(), read(&entry.table(&keys::SECRET)?)?))
    };
    field.entries().into_iter().filter_map(read).collect()
}

/// Reads name and password: both or neither.
pub(super) fn login(table: &Table<'_>) -> Option<Login> {
    let username = table.get("username").map(|field| field.parsed("a name in quotes", read_username));
    let password = match &table.present(&["secret_env", "secret_file"])[..] {
        [] => None,
        _ => Some(read(table)),
    };
    match (username, password) {
        (Some(username), Some(password)) => Some(Login { username: username?, password: password? }),
        (Some(_), None) => {
            table.problem(format!(
                "`{}` has a `username` and needs one of `secret_env` and `secret_file`",
                table.path()
            ));
            None
        }
        (None, Some(_)) => {
            table.problem(format!("`{}` has a secret and needs a `username`", table.path()));
            None
        }
        (None, None) => None,
    }
}

/// Rejects a colon: it would end the name in the combined credentials.
fn read_username(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        return Err("must be a name without colons and control characters".to_owned());
    }
    Ok(text.to_owned())
}

impl Manifest {
    /// Every secret with the dotted path of its place, such as `environment.dev.env.TOKEN`.
    pub fn secrets(&self) -> Vec<(String, SecretRef)> {
        let mut found = self.webhook_secrets();
        // The secrets of an environment on another host are stored there, and its agent reads them.
        for (name, spec) in self.environments.iter().filter(|(_, spec)| spec.host.is_none()) {
            let at = format!("environment.{name}");
            found.extend(secret_values(&format!("{at}.env"), &spec.env));
            found.extend(secret_values(&format!("{at}.health.headers"), &spec.health.headers));
            let auth = spec.site.basic_auth.as_ref();
            found.extend(auth.map(|auth| (format!("{at}.site.basic_auth"), auth.users.clone())));
            let place = |name: &String| format!("{at}.secrets.{name}");
            found.extend(spec.run.secrets.iter().map(|(name, file)| (place(name), file.secret.clone())));
            match spec.build.as_ref().map(|build| &build.recipe) {
                Some(Recipe::Dockerfile { secrets, .. }) => {
                    let place = |id: &String| format!("{at}.build.secrets.{id}");
                    found.extend(secrets.iter().map(|(id, named)| (place(id), named.clone())));
                }
                Some(Recipe::Script { env, .. }) => {
                    found.extend(secret_values(&format!("{at}.build.env"), env));
                }
                None => {}
            }
        }
        for (name, spec) in &self.repositories {
            let login = spec.login.as_ref().map(|login| login.password.clone());
            found.extend(login.map(|password| (format!("repository.{name}"), password)));
        }
        for (name, spec) in &self.repositories {
            let token = spec.forge.as_ref().map(|forge| match &forge.token {
                ForgeToken::Token(secret) => (format!("repository.{name}.forge.token"), secret.clone()),
                ForgeToken::App { key_file, .. } => {
                    (format!("repository.{name}.forge.app"), SecretRef::SecretFile(key_file.clone()))
                }
            });
            found.extend(token);
        }
        for (name, spec) in &self.channels {
            found.extend(spec.channel.secret().map(|secret| (format!("notify.{name}"), secret.clone())));
        }
        for (host, access) in &self.registries {
            let login = access.login.as_ref().map(|login| login.password.clone());
            found.extend(login.map(|password| (format!("registry_access.{host}"), password)));
        }
        let dns = self.front.iter().filter_map(|front| front.acme.as_ref()?.dns.as_ref());
        found.extend(dns.flat_map(|dns| secret_values("front.acme.dns.env", &dns.env)));
        found
    }

    /// The secrets of webhooks with the dotted paths of their places, such as `repository.keepwork.webhook`.
    /// Anyone who guesses one can announce pushes.
    pub fn webhook_secrets(&self) -> Vec<(String, SecretRef)> {
        let hook = |spec: &crate::model::spec::RepositorySpec| Some(spec.webhook.as_ref()?.secret.clone());
        let all = self.repositories.iter();
        let of_git = all.filter_map(|(name, spec)| Some((format!("repository.{name}.webhook"), hook(spec)?)));
        let of_registries = self.registries.iter().filter_map(|(host, access)| {
            Some((format!("registry_access.{host}.webhook"), access.webhook.clone()?))
        });
        let of_manifest = self.followed.iter().filter_map(|followed| hook(&followed.repository));
        let of_manifest = of_manifest.map(|secret| ("manifest.webhook".to_owned(), secret));
        of_git.chain(of_manifest).chain(of_registries).collect()
    }

    /// Every file of environment variables on this host, with the dotted path of its place.
    pub fn env_files(&self) -> Vec<(String, EnvFile)> {
        let here = self.environments.iter().filter(|(_, spec)| spec.host.is_none());
        let files = here.flat_map(|(name, spec)| {
            spec.run.env_files.iter().map(move |file| (format!("environment.{name}.env_file"), file.clone()))
        });
        files.collect()
    }

    /// The files of this host that hold secrets of any kind, but for the sources of `own` overlays.
    pub fn secret_files(&self, own: &[Overlay]) -> Vec<PathBuf> {
        let named = self.secrets().into_iter().filter_map(|(_, named)| match named {
            SecretRef::SecretFile(path) => Some(path),
            SecretRef::SecretEnv(_) => None,
        });
        let mut files: Vec<PathBuf> = named.collect();
        files.extend(self.env_files().into_iter().map(|(_, file)| file.path));
        let overlays = self.overlays().into_iter().map(|(_, overlay)| overlay);
        let others = overlays.filter(|overlay| !own.iter().any(|own| own.from == overlay.from));
        files.extend(others.map(|overlay| overlay.from));
        let certificates = self.front.iter().flat_map(FrontSpec::certificate_files);
        files.extend(certificates.map(|(_, _, certificate)| certificate.key.clone()));
        if let Some(registry) = &self.registry {
            files.extend(registry.htpasswd.clone());
            files.extend(registry.tls.iter().map(|tls| tls.key.clone()));
        }
        files
    }

    /// Every overlay with the dotted path of its place, such as
    /// `environment.dev.build.overlay[0]`.
    pub fn overlays(&self) -> Vec<(String, Overlay)> {
        let mut found = Vec::new();
        for (name, spec) in &self.environments {
            let overlays = spec.build.iter().flat_map(|build| build.overlay.iter().enumerate());
            let place = |index: usize| format!("environment.{name}.build.overlay[{index}]");
            found.extend(overlays.map(|(index, overlay)| (place(index), overlay.clone())));
        }
        found
    }
}

fn secret_values(at: &str, env: &BTreeMap<String, EnvValue>) -> Vec<(String, SecretRef)> {
    let secret = |(name, value): (&String, &EnvValue)| match value {
        EnvValue::Secret(named) => Some((format!("{at}.{name}"), named.clone())),
        EnvValue::Plain(_) => None,
    };
    env.iter().filter_map(secret).collect()
}
