//! `[page]`, the web page, and its place on the proxy.

use super::cross::{Declarations, NamedPartial};
use super::front::has_certificate;
use super::keys;
use super::places::Places;
use super::problem::Problem;
use super::table::ManifestField;
use crate::model::name::SiteName;
use crate::model::public_url::PublicUrl;
use crate::model::site::SitePath;
use crate::model::spec::{FrontSpec, PageSpec};

pub(super) fn read(field: &ManifestField<'_>) -> Option<PageSpec> {
    let table = field.table(&keys::PAGE)?;
    let on_front = table.get("front").and_then(|field| field.flag()).unwrap_or(false);
    let url = table.required("url")?;
    let url = url.parsed("the URL at which browsers reach abide", |text| {
        PublicUrl::parse(text).map_err(str::to_owned)
    });
    Some(PageSpec { url: url?, on_front })
}

/// Returns why the proxy cannot serve the page as declared.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let Some(PageSpec { url, on_front: true }) = &declared.page else { return Vec::new() };
    let mut found = Vec::new();
    let mut note = |key: &str, message: String| found.push(places.problem(&format!("page.{key}"), message));
    match &declared.front {
        Some(Some(front)) => {
            if let Some(problem) = wrong_door(url, front) {
                note("url", problem);
            }
        }
        None if !declared.incomplete => {
            note("front", "`front` needs the proxy: add `[front]`, whose keys all have defaults".to_owned());
        }
        Some(None) | None => {}
    }
    match (SiteName::new(url.host()), SitePath::new(url.prefix())) {
        (Err(_), _) => note(
            "url",
            format!(
                "the proxy chooses sites by host names, and `{}` is none: use a name, or remove `front`",
                url.host()
            ),
        ),
        (Ok(_), Err(error)) if !url.prefix().is_empty() => note("url", error.to_string()),
        (Ok(name), path) => {
            if let Some(problem) = taken(&name, path.ok().as_ref(), all) {
                note("url", problem);
            }
        }
    }
    found
}

/// Why browsers would not reach the proxy at this URL. Another proxy in front of this one may have any port and
/// certificate.
fn wrong_door(url: &PublicUrl, front: &FrontSpec) -> Option<String> {
    if !front.trusted_proxies.is_empty() {
        return None;
    }
    let (port, key) = match (url.is_https(), &front.https) {
        (false, _) => (front.http, "http"),
        (true, Some(https)) => (https.port, "https"),
        (true, None) => {
            return Some(
                "`url` has `https://`, and the proxy has no certificates: add `acme = {}` to `[front]` to get them \
                 from Let's Encrypt, or name files in `certificates`"
                    .to_owned(),
            );
        }
    };
    if url.port() != port {
        return Some(format!(
            "`url` leads to the port {}, and `{key}` of the proxy is {port}: write the same port in both",
            url.port()
        ));
    }
    let name = SiteName::new(url.host()).ok()?;
    (url.is_https() && front.acme.is_none() && !has_certificate(front, &name)).then(|| {
        format!(
            "no certificate of the proxy is for `{name}`: add `acme = {{}}` to `[front]`, or name one in \
             `certificates`"
        )
    })
}

/// Who else has this address on the proxy.
fn taken(name: &SiteName, path: Option<&SitePath>, all: &[NamedPartial<'_>]) -> Option<String> {
    let here = all.iter().filter(|(_, draft)| draft.host.is_none());
    let has = |(_, draft): &&NamedPartial<'_>| {
        draft.hostnames.contains(name) && draft.site.path.as_ref() == path
            || draft.site.redirect_from.contains(name)
    };
    let (owner, _) = here.into_iter().find(has)?;
    let address = path.map_or_else(|| name.to_string(), |path| format!("{name}{path}"));
    Some(format!(
        "`{address}` already belongs to `environment.{owner}`: give the page another path, or a host name of its own"
    ))
}
