//! `[environment.NAME.site]`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use ipnet::IpNet;
use toml::de::DeValue;

use super::environment::read_names;
use super::table::{ManifestField, Table, integer};
use super::{front, grammar, keys, secrets};
use crate::model::name::SiteName;
use crate::model::site::{
    AuthRealm, BasicAuth, BodyLimit, ErrorStatus, HeaderText, PageFile, RateLimit, ResponseHeader,
    SiteSettings,
};

/// The realm if the environment's name is not one.
const REALM: &str = "Restricted";

/// Reads the settings of an environment with these host names.
pub(super) fn read(environment: &Table<'_>, hostnames: &[SiteName]) -> SiteSettings {
    let Some(field) = environment.get("site") else { return SiteSettings::default() };
    read_table(environment, &field, hostnames).unwrap_or_default()
}

fn read_table(
    environment: &Table<'_>,
    field: &ManifestField<'_>,
    hostnames: &[SiteName],
) -> Option<SiteSettings> {
    let table = field.table(&keys::SITE)?;
    let flag = |key| table.get(key).and_then(|field| field.flag()).unwrap_or_default();
    let networks = |key| table.get(key).map(|field| read_networks(&field)).unwrap_or_default();
    let site = SiteSettings {
        path: table.get("path").and_then(|field| field.name()),
        strip_path: flag("strip_path"),
        redirect_from: table.get("redirect_from").map(|field| read_names(&field)).unwrap_or_default(),
        max_body: table.get("max_body").and_then(|field| read_size(&field)),
        timeout: table.get("timeout").and_then(|field| read_timeout(&field)),
        sticky: flag("sticky"),
        gzip: flag("gzip"),
        basic_auth: table.get("basic_auth").and_then(|field| read_auth(environment, &field)),
        allow: networks("allow"),
        deny: networks("deny"),
        rate_limit: table.get("rate_limit").and_then(|field| read_rate(&field)),
        headers: table.get("headers").map(|field| read_headers(&field)).unwrap_or_default(),
        access_log: flag("access_log"),
        error_pages: table.get("error_pages").map(|field| read_pages(&field)).unwrap_or_default(),
    };
    for field in table.present(&["path", "redirect_from"]) {
        if hostnames.is_empty() {
            field.must("needs a `hostname` in the environment");
        }
    }
    if let (Some(field), None) = (table.get("sticky").filter(|_| site.sticky), environment.get("replicas")) {
        field.must("needs `replicas` to choose from");
    }
    if let (Some(field), None) = (table.get("strip_path"), table.get("path")) {
        field.must("needs a `path` to remove");
    }
    if let Some(field) = table.get("redirect_from") {
        check_redirects(&field, &site.redirect_from, hostnames);
    }
    Some(site)
}

fn check_redirects(field: &ManifestField<'_>, from: &[SiteName], hostnames: &[SiteName]) {
    if let Some(both) = from.iter().find(|name| hostnames.contains(name)) {
        field.must(format!("has {both}, which is one of the host names"));
    }
    let has_target = hostnames.iter().any(|name| name.wildcard_base().is_none());
    if !hostnames.is_empty() && !has_target {
        field.must("needs a host name without `*` to redirect to");
    }
}

fn read_networks(field: &ManifestField<'_>) -> Vec<IpNet> {
    field.items("a list of addresses and networks").iter().filter_map(front::read_network).collect()
}

fn read_size(field: &ManifestField<'_>) -> Option<BodyLimit> {
    let bytes = match field.value() {
        DeValue::Integer(number) => {
            integer(number).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default()
        }
        _ => field.parsed("a size such as \"10MiB\" or a number of bytes", |text| {
            grammar::bytes(text)
                .ok_or_else(|| "must be a size such as \"10MiB\" or a number of bytes".to_owned())
        })?,
    };
    BodyLimit::try_from(bytes).map_err(|predicate| field.must(predicate)).ok()
}

fn read_timeout(field: &ManifestField<'_>) -> Option<NonZeroU32> {
    let found = u32::try_from(field.duration()?.as_millis()).ok().and_then(NonZeroU32::new);
    if found.is_none() {
        field.must("must be from a millisecond to 49 days");
    }
    found
}

fn read_auth(environment: &Table<'_>, field: &ManifestField<'_>) -> Option<BasicAuth> {
    let table = field.table(&keys::BASIC_AUTH)?;
    let own = environment.path().rsplit('.').next().unwrap_or_default();
    let realm: Option<AuthRealm> = match table.get("realm") {
        Some(field) => field.name(),
        None => AuthRealm::new(own).or_else(|_| AuthRealm::new(REALM)).ok(),
    };
    let users = secrets::read(&table);
    Some(BasicAuth { realm: realm?, users: users? })
}

fn read_rate(field: &ManifestField<'_>) -> Option<RateLimit> {
    let DeValue::Table(_) = field.value() else {
        return field.parsed("a rate such as \"10/s\"", RateLimit::parse);
    };
    let table = field.table(&keys::RATE_LIMIT)?;
    let burst = table.get("burst").map(|field| field.integer(0, 1_000_000));
    let rate = table.required("rate")?.parsed("a rate such as \"10/s\"", RateLimit::parse)?;
    let burst = burst.map(|burst| burst.and_then(|burst| u32::try_from(burst).ok()));
    match burst {
        None => Some(rate),
        Some(burst) => Some(rate.with_burst(burst?)),
    }
}

fn read_headers(field: &ManifestField<'_>) -> BTreeMap<ResponseHeader, HeaderText> {
    let mut found = BTreeMap::<ResponseHeader, HeaderText>::new();
    for entry in field.all_entries() {
        let (name, text) = (entry.key_as_name::<ResponseHeader>(), entry.name());
        let (Some(name), Some(text)) = (name, text) else { continue };
        if found.keys().any(|other| other.as_str().eq_ignore_ascii_case(name.as_str())) {
            entry.must("is there twice: the case of a header does not matter");
        }
        found.insert(name, text);
    }
    found
}

fn read_pages(field: &ManifestField<'_>) -> BTreeMap<ErrorStatus, PageFile> {
    let read = |entry: &ManifestField<'_>| {
        let status = entry.key().parse::<u16>().unwrap_or_default();
        let status = ErrorStatus::try_from(status).map_err(|predicate| entry.must(predicate)).ok();
        let path = entry
            .parsed("the path of a file", |text| grammar::host_path(&entry.in_folder(text)))
            .map(PageFile);
        Some((status?, path?))
    };
    field.entries().iter().filter_map(read).collect()
}
