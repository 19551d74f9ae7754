//! One order: prove the names, ask for the certificate. The state that is needed after a crash is on
//! disk before each step that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use tracing::{info, warn};

use super::http::{self, Unreachable};
use super::store::{CertificateStore, CurrentCertificate, PendingOrder, SetDocument};
use super::{check, command, now, resolver};
use crate::model::name::SiteName;
use crate::model::spec::{AcmeSpec, DnsSpec};
use crate::model::time::Timestamp;
use crate::tls::certificate::{self, RenewalId};

/// How long an authority may take to check names or to issue.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pause between two looks for a TXT record.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The reason why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderFailure {
    /// A sentence.
    pub(super) message: String,
    /// The name that could not be proven.
    pub(super) name: Option<SiteName>,
    pub(super) kind: OrderFailureKind,
    /// The time before which the authority wants no other attempt.
    pub(super) not_before: Option<Timestamp>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderFailureKind {
    /// The authority refused, or could not check a name: this counts for its limits.
    Refused,
    /// The authority, or the way to it, has a problem that will pass.
    Unreachable,
    /// The authority does not know the account.
    NoAccount,
    /// Something on this host: a disk, the DNS command.
    Local,
}

impl OrderFailure {
    pub(super) fn local(message: impl Into<String>) -> Self {
        Self { message: message.into(), name: None, kind: OrderFailureKind::Local, not_before: None }
    }

    pub(super) fn of(doing: &str, error: Error) -> Self {
        let (message, kind, not_before) = match &error {
            Error::Api(problem) => {
                let detail = problem.detail.as_deref().unwrap_or_default();
                (words(problem), kind_of(problem), http::retry_after(detail))
            }
            Error::Other(other) if other.is::<Unreachable>() => {
                (other.to_string(), OrderFailureKind::Unreachable, None)
            }
            Error::Timeout(_) => {
                ("the authority takes too long".to_owned(), OrderFailureKind::Unreachable, None)
            }
            other => (other.to_string(), OrderFailureKind::Unreachable, None),
        };
        Self { message: format!("{doing}: {message}"), name: None, kind, not_before }
    }
}

fn kind_of(problem: &Problem) -> OrderFailureKind {
    match short(problem) {
        "accountDoesNotExist" => OrderFailureKind::NoAccount,
        "badNonce" | "serverInternal" => OrderFailureKind::Unreachable,
        _ => OrderFailureKind::Refused,
    }
}

fn short(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.rsplit(':').next().unwrap_or(kind)
}

/// The authority's error, without its namespaces and without control characters.
pub(super) fn words(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "no reason given".to_owned());
    for sub in &problem.subproblems {
        text.push_str("; ");
        text.push_str(sub.detail.as_deref().unwrap_or_default());
    }
    let kind = short(problem);
    let kind = if kind.is_empty() { String::new() } else { format!(" ({kind})") };
    format!("{text}{kind}").chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// How each name is proven.
pub(super) type Proofs = BTreeMap<SiteName, ChallengeProof>;

/// How a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChallengeProof {
    /// By the proxy's answer at a constant location.
    Http,
    /// By a TXT record.
    Dns,
}

/// An attempt to get a certificate.
pub(super) struct Attempt<'a> {
    pub(super) store: &'a CertificateStore,
    pub(super) account: &'a Account,
    pub(super) spec: &'a AcmeSpec,
    /// The directory of the account.
    pub(super) directory: &'a str,
    pub(super) proofs: &'a Proofs,
    /// The certificate that the new one replaces, if the authority gives advice.
    pub(super) replaces: Option<RenewalId>,
}

/// A TXT record of a challenge.
struct TextRecord {
    name: String,
    value: String,
}

impl Attempt<'_> {
    /// Gets a certificate for the document's names, and makes it the current one.
    pub(super) async fn issue(&self, document: &mut SetDocument) -> Result<(), OrderFailure> {
        let (mut order, file) = self.begin(document).await?;
        let chain = self.complete(&mut order, document.names.clone(), &file).await;
        let chain = match chain {
            Ok(chain) => chain,
            Err(failed) => {
                if failed.kind != OrderFailureKind::Unreachable && failed.kind != OrderFailureKind::Local {
                    // It cannot be completed any more.
                    document.order = None;
                    save(self.store, document)?;
                }
                return Err(failed);
            }
        };
        self.store.save_chain(&file, &chain).map_err(not_written)?;
        let pair = self.store.read_pair(&file, true).map_err(OrderFailure::local)?;
        if let Some(missing) =
            document.names.iter().find(|name| !pair.names.iter().any(|own| own.covers(name)))
        {
            return Err(OrderFailure::local(format!("the authority issued a certificate without {missing}")));
        }
        document.current = Some(CurrentCertificate { file, directory: self.directory.to_owned() });
        document.order = None;
        document.failure = None;
        document.advice = None;
        document.issued.push(now());
        let length = document.issued.len();
        document.issued.drain(..length.saturating_sub(8));
        save(self.store, document)?;
        info!(names = %list(&document.names), until = %pair.until, "a certificate was issued");
        Ok(())
    }

    /// Proves the names at a staging directory, and drops the certificate. Nothing of it is kept.
    pub(super) async fn rehearse(&self, names: &BTreeSet<SiteName>) -> Result<(), OrderFailure> {
        let mut order = self.order(names).await?;
        let key = certificate::new_key().map_err(|error| OrderFailure::local(error.to_string()))?;
        self.prove_and_finalize(&mut order, names, &key).await.map(|_| ())
    }

    /// The order to complete: the one that an earlier attempt left, or a new one.
    async fn begin(&self, document: &mut SetDocument) -> Result<(Order, String), OrderFailure> {
        if let Some(pending) = document.order.clone().filter(|order| order.directory == self.directory)
            && self.store.key(&pending.file).is_ok()
        {
            match self.account.order(pending.url).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        info!(names = %list(&document.names), "taking up an order again");
                        return Ok((order, pending.file));
                    }
                }
                Err(Error::Api(_)) => {}
                Err(error) => return Err(OrderFailure::of("the order cannot be taken up", error)),
            }
        }
        let key = certificate::new_key().map_err(|error| OrderFailure::local(error.to_string()))?;
        let file = self.store.new_key(&document.names, &key).map_err(not_written)?;
        let order = self.order(&document.names).await?;
        let (url, directory) = (order.url().to_owned(), self.directory.to_owned());
        document.order = Some(PendingOrder { url, directory, file: file.clone() });
        save(self.store, document)?;
        Ok((order, file))
    }

    async fn order(&self, names: &BTreeSet<SiteName>) -> Result<Order, OrderFailure> {
        let identifiers: Vec<Identifier> =
            names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
        let new = || {
            let order = NewOrder::new(&identifiers);
            match &self.spec.profile {
                Some(profile) => order.profile(profile),
                None => order,
            }
        };
        if let Some(profile) = &self.spec.profile {
            let known: Vec<&str> = self.account.profiles().map(|profile| profile.name).collect();
            if !known.contains(&profile.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(OrderFailure::local(format!(
                    "the authority has no profile `{profile}`; it has: {known}"
                )));
            }
        }
        if let Some(RenewalId { authority, serial }) = self.replaces.clone() {
            let replaces =
                CertificateIdentifier { authority_key_identifier: authority.into(), serial: serial.into() };
            match self.account.new_order(&new().replaces(replaces)).await {
                Ok(order) => return Ok(order),
                // The certificate was replaced already, or the authority knows no replacing.
                Err(Error::Unsupported(_) | Error::Other(_)) => {}
                Err(Error::Api(problem)) if matches!(short(&problem), "alreadyReplaced" | "malformed") => {}
                Err(error) => return Err(OrderFailure::of("the authority took no order", error)),
            }
        }
        self.account
            .new_order(&new())
            .await
            .map_err(|error| OrderFailure::of("the authority took no order", error))
    }

    async fn complete(
        &self,
        order: &mut Order,
        names: BTreeSet<SiteName>,
        file: &str,
    ) -> Result<String, OrderFailure> {
        let key = self
            .store
            .key(file)
            .map_err(|error| OrderFailure::local(format!("the key of the order: {error}")))?;
        self.prove_and_finalize(order, &names, &key).await
    }

    async fn prove_and_finalize(
        &self,
        order: &mut Order,
        names: &BTreeSet<SiteName>,
        key: &str,
    ) -> Result<String, OrderFailure> {
        if order.state().status == OrderStatus::Pending {
            let mut records = Vec::new();
            let proven = self.prove(order, &mut records).await;
            // Records are removed once the order needs them no more, however it ended.
            for record in &records {
                self.remove(record).await;
            }
            proven?;
        }
        if order.state().status == OrderStatus::Ready {
            let list: Vec<SiteName> = names.iter().cloned().collect();
            let request =
                certificate::request(&list, key).map_err(|error| OrderFailure::local(error.to_string()))?;
            let finalized = order.finalize_csr(&request).await;
            finalized.map_err(|error| OrderFailure::of("the authority refused the request", error))?;
        }
        let policy = RetryPolicy::new().timeout(PATIENCE);
        let chain = order.poll_certificate(&policy).await;
        chain.map_err(|error| OrderFailure::of("the authority issued no certificate", error))
    }

    /// Answers every open challenge, and waits until the authority looked.
    async fn prove(&self, order: &mut Order, records: &mut Vec<TextRecord>) -> Result<(), OrderFailure> {
        let failed = |error| OrderFailure::of("the challenges cannot be read", error);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let (name, proof) = self.proof(&authorization.identifier().to_string())?;
            if proof == ChallengeProof::Http {
                continue;
            }
            let Some(challenge) = authorization.challenge(ChallengeType::Dns01) else {
                return Err(no_challenge(name, "dns-01"));
            };
            let base = name.wildcard_base().unwrap_or(name.as_str());
            let record = TextRecord {
                name: self.challenge_name(name, base).await?,
                value: challenge.key_authorization().dns_value(),
            };
            let dns = self.dns()?;
            // It may have been added even if the command failed.
            let added = command::run(dns, "present", &record.name, &record.value).await;
            records.push(record);
            added.map_err(|message| OrderFailure {
                name: Some(name.clone()),
                ..OrderFailure::local(message)
            })?;
        }
        if !records.is_empty() {
            self.await_records(records).await?;
        }
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let (name, proof) = self.proof(&authorization.identifier().to_string())?;
            let kind =
                if proof == ChallengeProof::Http { ChallengeType::Http01 } else { ChallengeType::Dns01 };
            let Some(mut challenge) = authorization.challenge(kind) else {
                return Err(no_challenge(name, "http-01"));
            };
            challenge.set_ready().await.map_err(|error| OrderFailure {
                name: Some(name.clone()),
                ..OrderFailure::of(&format!("{name} cannot be proven"), error)
            })?;
        }
        match order.poll_ready(&RetryPolicy::new().timeout(PATIENCE)).await {
            Ok(OrderStatus::Invalid) => Err(self.reason(order, "the order became invalid".to_owned()).await),
            Ok(_) => Ok(()),
            Err(Error::Api(problem)) => Err(self.reason(order, words(&problem)).await),
            Err(error) => Err(OrderFailure::of("the authority did not check the names", error)),
        }
    }

    /// The name of the TXT record that proves `base`. A zone that nobody may change by a program can delegate it with a
    /// CNAME record.
    async fn challenge_name(&self, name: &SiteName, base: &str) -> Result<String, OrderFailure> {
        let found = resolver::canonical(&format!("_acme-challenge.{base}"), self.spec.resolver).await;
        found.map_err(|why| OrderFailure {
            name: Some(name.clone()),
            ..OrderFailure::local(format!("_acme-challenge.{base} cannot be looked up: {why}"))
        })
    }

    fn proof(&self, identifier: &str) -> Result<(&SiteName, ChallengeProof), OrderFailure> {
        let found = self.proofs.iter().find(|(name, _)| name.as_str() == identifier);
        let unknown = || {
            OrderFailure::local(format!(
                "the authority asks for a proof of {identifier}, which is not ordered"
            ))
        };
        found.map(|(name, proof)| (name, *proof)).ok_or_else(unknown)
    }

    fn dns(&self) -> Result<&DnsSpec, OrderFailure> {
        self.spec.dns.as_ref().ok_or_else(|| OrderFailure::local("a proof by DNS needs `dns` in `acme`"))
    }

    /// Waits until the zone's name servers have all records.
    async fn await_records(&self, records: &[TextRecord]) -> Result<(), OrderFailure> {
        let (dns, began) = (self.dns()?, tokio::time::Instant::now());
        for record in records {
            let mut last = "no name server has it".to_owned();
            loop {
                match resolver::has_text(&record.name, &record.value, self.spec.resolver).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(why) => last = why,
                }
                if began.elapsed() > dns.propagation {
                    let within = humantime::format_duration(dns.propagation);
                    let message =
                        format!("the TXT record {} was not there within {within}: {last}", record.name);
                    return Err(OrderFailure::local(message));
                }
                tokio::time::sleep(LOOK_AGAIN.min(dns.propagation)).await;
            }
        }
        Ok(())
    }

    async fn remove(&self, record: &TextRecord) {
        let Ok(dns) = self.dns() else { return };
        if let Err(why) = command::run(dns, "cleanup", &record.name, &record.value).await {
            warn!(record = record.name, why, "a TXT record was not removed");
        }
    }

    /// Why an order failed: the reason is in the challenge of a name, not in the order.
    async fn reason(&self, order: &mut Order, otherwise: String) -> OrderFailure {
        let mut failed = OrderFailure {
            message: otherwise,
            name: None,
            kind: OrderFailureKind::Refused,
            not_before: None,
        };
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = problem {
                failed.message = words(problem);
                let identifier = state.identifier().to_string();
                failed.name = self.proof(&identifier).ok().map(|(name, _)| name.clone());
                break;
            }
        }
        if let Some(name) = &failed.name {
            let hint = hint(name, self.spec.resolver).await;
            failed.message = format!("{name} was not proven: {}{hint}", failed.message);
        }
        failed
    }
}

async fn hint(name: &SiteName, server: Option<SocketAddr>) -> String {
    if name.wildcard_base().is_some() {
        return String::new();
    }
    check::hint(name.as_str(), server).await.map(|hint| format!(". {hint}")).unwrap_or_default()
}

fn no_challenge(name: &SiteName, kind: &str) -> OrderFailure {
    let message = format!("the authority offers no challenge of the kind {kind} for {name}");
    OrderFailure { message, name: Some(name.clone()), kind: OrderFailureKind::Refused, not_before: None }
}

fn save(store: &CertificateStore, document: &SetDocument) -> Result<(), OrderFailure> {
    store.save(document).map_err(not_written)
}

fn not_written(error: std::io::Error) -> OrderFailure {
    OrderFailure::local(format!("the state of certificates cannot be written: {error}"))
}

/// Names as a text.
pub(super) fn list(names: &BTreeSet<SiteName>) -> String {
    names.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ")
}
