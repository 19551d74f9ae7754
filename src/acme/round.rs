//! One round over all desired certificates: which are missing or due, which names can be proven now, and one
//! order after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{CertificateIdentifier, Error};
use tracing::{info, warn};

use super::account::Accounts;
use super::check::{self, Leads};
use super::keeper::AcmeState;
use super::order::{Attempt, ChallengeProof, OrderFailure, OrderFailureKind, Proofs, list};
use super::schedule;
use super::store::{Advice, CertificateStore, FailedNames, FailureStreak, SetDocument, id_of};
use super::{CertificateOwner, CertificateReport, DesiredCertificates, Pair, now};
use crate::model::name::SiteName;
use crate::model::time::Timestamp;
use crate::tls::certificate;

/// The pause before names are looked up again that do not lead here. It costs no attempt.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The pause before the next question for advice if there was no usable answer.
const NO_ADVICE: Duration = Duration::from_secs(6 * 60 * 60);
/// The pause after the authority could not be reached, which doubles up to the longest.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(30 * 60));
/// A refusal of the authority that holds for one set of names holds up all others for this long at most.
const LONGEST_REFUSAL: Duration = Duration::from_secs(60 * 60);
/// Several certificates within this time are announced together, because each announcement reloads the proxy.
const GATHER: Duration = Duration::from_secs(5);
/// No certificate was issued by this version of abide before this time, so an earlier clock is wrong:
/// 2026-01-01.
const EARLIEST: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// Publishes a state.
type PublishState<'a> = &'a (dyn Fn(AcmeState) + Send + Sync);

/// The knowledge that is kept between rounds.
pub(super) struct Round {
    store: CertificateStore,
    accounts: Accounts,
    sets: BTreeMap<String, SetDocument>,
    failed_names: FailedNames,
    pairs: BTreeMap<String, Arc<Pair>>,
    stand_ins: BTreeMap<String, Arc<Pair>>,
    reports: BTreeMap<CertificateOwner, CertificateReport>,
    /// Failures in a row that do not count at the authority, by set.
    unreachable: BTreeMap<String, FailureStreak>,
    /// Until when each directory wants no orders.
    refused_until: BTreeMap<String, Timestamp>,
    ca_file: Option<PathBuf>,
    /// When the state was last published, and whether it changed since.
    published_at: tokio::time::Instant,
    is_unpublished: bool,
    is_pruned: bool,
}

/// The result for one owner.
struct RoundOutcome {
    report: CertificateReport,
    /// When to look again at the latest.
    next: Timestamp,
}

impl Round {
    /// # Errors
    /// The folder cannot be used; a clause.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let store = CertificateStore::open(folder).map_err(|error| error.to_string())?;
        let key = store.account_key().map_err(|error| format!("the account's key: {error}"))?;
        let accounts = Accounts::new(key).map_err(|error| format!("the account's key: {error}"))?;
        let sets = store.sets().map_err(|error| error.to_string())?;
        let failed_names = store.failed_names();
        let mut pairs = BTreeMap::new();
        for (id, set) in &sets {
            let Some(current) = &set.current else { continue };
            match store.read_pair(&current.file, true) {
                Ok(pair) => _ = pairs.insert(id.clone(), Arc::new(pair)),
                Err(why) => warn!(why, "a kept certificate cannot be used"),
            }
        }
        Ok(Self {
            store,
            accounts,
            sets,
            failed_names,
            pairs,
            stand_ins: BTreeMap::new(),
            reports: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            refused_until: BTreeMap::new(),
            ca_file: None,
            published_at: tokio::time::Instant::now(),
            is_unpublished: false,
            is_pruned: false,
        })
    }

    /// Checks everything once. Returns the time until something is due.
    pub(super) async fn run(&mut self, wanted: &DesiredCertificates, publish: PublishState<'_>) -> Duration {
        if self.ca_file != wanted.spec.ca_file {
            self.ca_file.clone_from(&wanted.spec.ca_file);
            self.accounts.forget_all();
        }
        let trouble = (now() < EARLIEST)
            .then(|| format!("the clock of this host shows {}: no certificate is ordered", now()));
        self.stand_in(wanted);
        self.reports.retain(|owner, _| wanted.sets.contains_key(owner));
        self.publish(publish, trouble.clone());
        if trouble.is_some() {
            return LOOK_AGAIN;
        }
        let mut next = now().after(LOOK_AGAIN);
        for (owner, names) in &wanted.sets {
            let outcome = self.keep(&without_covered(names), wanted).await;
            self.reports.insert(owner.clone(), outcome.report);
            next = next.min(outcome.next);
            if self.is_unpublished && self.published_at.elapsed() >= GATHER {
                self.publish(publish, None);
            }
        }
        if !self.is_pruned {
            self.prune(wanted);
        }
        self.publish(publish, None);
        next.since(now())
    }

    fn publish(&mut self, publish: PublishState<'_>, trouble: Option<String>) {
        (self.published_at, self.is_unpublished) = (tokio::time::Instant::now(), false);
        let valid = self.pairs.values().filter(|pair| pair.until > now());
        let pairs = valid.chain(self.stand_ins.values()).cloned().collect();
        let thumbprint = Some(self.accounts.thumbprint().to_owned());
        publish(AcmeState { thumbprint, pairs, reports: self.reports.clone(), trouble });
    }

    /// Has a self-signed certificate for every environment that a name of has no issued one.
    fn stand_in(&mut self, wanted: &DesiredCertificates) {
        let mut kept = BTreeMap::new();
        for names in wanted.sets.values() {
            if names.iter().all(|name| self.cover(name).is_some()) {
                continue;
            }
            let id = id_of(names);
            let pair = match self.stand_ins.remove(&id) {
                Some(pair) => Ok(pair),
                None => self.store.stand_in(names, now()).map(Arc::new),
            };
            match pair {
                Ok(pair) => _ = kept.insert(id, pair),
                Err(why) => warn!(names = %list(names), why, "no self-signed certificate"),
            }
        }
        self.stand_ins = kept;
    }

    fn prune(&mut self, wanted: &DesiredCertificates) {
        let used = |id: &String| wanted.sets.values().any(|names| id_of(names) == *id);
        let covering = self.sets.keys().filter(|id| {
            let pair = self.pairs.get(*id);
            used(id) || pair.is_some_and(|pair| wanted.sets.values().flatten().any(|name| covers(pair, name)))
        });
        let mut needed: BTreeSet<String> = covering.cloned().collect();
        needed.extend(wanted.sets.values().map(id_of));
        self.store.prune(&mut self.sets, &needed, now());
        self.is_pruned = true;
    }

    /// The valid issued certificate for a name that lasts longest: the id of its set, and itself.
    fn cover(&self, name: &SiteName) -> Option<(&String, &Arc<Pair>)> {
        let valid = self.pairs.iter().filter(|(_, pair)| pair.until > now() && covers(pair, name));
        valid.max_by_key(|(_, pair)| pair.until)
    }

    // --- one environment ------------------------------------------------------------------------

    async fn keep(&mut self, names: &BTreeSet<SiteName>, wanted: &DesiredCertificates) -> RoundOutcome {
        let used: BTreeSet<String> =
            names.iter().filter_map(|name| self.cover(name)).map(|(id, _)| id.clone()).collect();
        let is_complete = names.iter().all(|name| self.cover(name).is_some());
        let ends: Vec<Timestamp> = used.iter().filter_map(|id| Some(self.pairs.get(id)?.until)).collect();
        let until = ends.into_iter().min().filter(|_| is_complete);
        let mut due = now().after(LOOK_AGAIN * 60);
        for id in &used {
            due = due.min(self.due(id, wanted).await);
        }
        if is_complete && due > now() {
            return RoundOutcome { report: CertificateReport { until, problem: None }, next: due };
        }
        let (problem, next) = self.order(names, is_complete, wanted).await;
        let is_complete = names.iter().all(|name| self.cover(name).is_some());
        let ends = names.iter().filter_map(|name| Some(self.cover(name)?.1.until)).min();
        RoundOutcome { report: CertificateReport { until: ends.filter(|_| is_complete), problem }, next }
    }

    /// When the certificate of a set is to be renewed.
    async fn due(&mut self, id: &str, wanted: &DesiredCertificates) -> Timestamp {
        let (Some(set), Some(pair)) = (self.sets.get(id).cloned(), self.pairs.get(id).cloned()) else {
            return now();
        };
        let Ok(facts) = certificate::facts(pair.chain.as_bytes()) else { return now() };
        let by_share = schedule::renew_at(facts.from, facts.until);
        let Some(current) = set.current.as_ref().filter(|current| current.directory == wanted.spec.directory)
        else {
            return by_share;
        };
        let before = set.advice.clone().filter(|advice| advice.file == current.file);
        let advice = match before {
            Some(advice) if advice.ask_at > now() => Some(advice),
            before => self.ask_for_advice(id, &current.file, before, wanted).await,
        };
        advice
            .and_then(|advice| advice.renew_at)
            .map_or(by_share, |advised| advised.min(by_share.max(facts.from)))
    }

    /// Asks the authority when to renew, and remembers the answer.
    async fn ask_for_advice(
        &mut self,
        id: &str,
        file: &str,
        before: Option<Advice>,
        wanted: &DesiredCertificates,
    ) -> Option<Advice> {
        let answer = self.renewal_info(id, wanted).await;
        let mut chance = [0; 8];
        let _ = getrandom::fill(&mut chance);
        let chance = u64::from_le_bytes(chance);
        let advice = match answer {
            Ok((window, pause)) => {
                let ask_at = now().after(schedule::ask_again(pause));
                schedule::advised(before.as_ref(), file, Some(window), ask_at, chance)
            }
            // Earlier advice stays valid.
            Err(_) => {
                let window = before.as_ref().and_then(|before| before.window);
                schedule::advised(before.as_ref(), file, window, now().after(NO_ADVICE), chance)
            }
        };
        let set = self.sets.get_mut(id)?;
        set.advice = Some(advice.clone());
        if let Err(error) = self.store.save(set) {
            warn!(%error, "the state of certificates cannot be written");
        }
        Some(advice)
    }

    async fn renewal_info(
        &mut self,
        id: &str,
        wanted: &DesiredCertificates,
    ) -> Result<((Timestamp, Timestamp), Duration), Error> {
        let pair = self.pairs.get(id).cloned().ok_or(Error::Str("certificate"))?;
        let facts = certificate::facts(pair.chain.as_bytes()).map_err(|error| Error::Other(error.into()))?;
        let id = facts.id.ok_or(Error::Unsupported("certificates without an authority's key"))?;
        let id =
            CertificateIdentifier { authority_key_identifier: id.authority.into(), serial: id.serial.into() };
        let account = self.account(&wanted.spec.directory, wanted).await?;
        let (info, pause) = account.renewal_info(&id).await?;
        let at = |seconds: i64| Timestamp::from_millis(u64::try_from(seconds).unwrap_or_default() * 1000);
        let window = info.suggested_window;
        Ok(((at(window.start.unix_timestamp()), at(window.end.unix_timestamp())), pause))
    }

    async fn account(
        &mut self,
        directory: &str,
        wanted: &DesiredCertificates,
    ) -> Result<instant_acme::Account, Error> {
        let spec = &wanted.spec;
        self.accounts.get(directory, spec.ca_file.clone(), spec.email.as_deref()).await
    }

    // --- orders ---------------------------------------------------------------------------------

    /// Orders a certificate for those of `names` that can be proven now. Returns the problem, and when to look
    /// again. `is_renewal`: every name has a valid certificate.
    async fn order(
        &mut self,
        names: &BTreeSet<SiteName>,
        is_renewal: bool,
        wanted: &DesiredCertificates,
    ) -> (Option<String>, Timestamp) {
        let mut next = now().after(LOOK_AGAIN);
        let (proofs, doubts, mut problems) = self.proofs(names, wanted, &mut next).await;
        let ready: BTreeSet<SiteName> = proofs.keys().cloned().collect();
        let is_new = |name: &SiteName| self.cover(name).is_none();
        let is_worth_it = if is_renewal {
            ready.len() == names.len() || !ready.is_empty() && self.is_late(names)
        } else {
            ready.iter().any(is_new)
        };
        if !is_worth_it {
            return (Some(sentence(&problems)), next);
        }
        let id = id_of(&ready);
        let mut set = self.sets.get(&id).cloned().unwrap_or_default();
        set.names.clone_from(&ready);
        if let Some((at, why)) = self.waits(&id, &set, wanted) {
            problems.push(why);
            return (Some(sentence(&problems)), next.min(at).max(now()));
        }
        let outcome = self.attempt(&mut set, &proofs, doubts.is_some(), wanted).await;
        match outcome {
            Ok(()) => {
                self.issued(&id, set, wanted);
                let left = names.len() > ready.len();
                (left.then(|| sentence(&problems)), if left { next } else { now().after(LOOK_AGAIN) })
            }
            Err(failed) => {
                if let Some(doubt) = doubts {
                    problems.push(doubt);
                }
                let at = self.note(&id, set, &failed, wanted);
                problems.push(format!("{}; next attempt {}", failed.message, moment(at)));
                (Some(sentence(&problems)), at)
            }
        }
    }

    /// How each name can be proven now; a doubt; and why the others cannot.
    async fn proofs(
        &mut self,
        names: &BTreeSet<SiteName>,
        wanted: &DesiredCertificates,
        next: &mut Timestamp,
    ) -> (Proofs, Option<String>, Vec<String>) {
        let (mut proofs, mut doubt, mut problems) = (Proofs::new(), None, Vec::new());
        let has_dns = wanted.spec.dns.is_some();
        for name in names {
            if let Some(failure) = self.failed_names.get(name).filter(|failure| failure.retry_at > now()) {
                problems.push(waiting(failure));
                *next = (*next).min(failure.retry_at);
                continue;
            }
            let leads = match name.wildcard_base() {
                Some(_) if has_dns => Leads::Elsewhere(String::new()),
                Some(_) => Leads::Elsewhere(format!("{name} needs proof by DNS: set `dns` in `acme`")),
                None if !wanted.answers => {
                    Leads::Elsewhere("the proxy does not answer challenges yet".to_owned())
                }
                None => {
                    let thumbprint = self.accounts.thumbprint().to_owned();
                    check::leads_here(name.as_str(), wanted.http, &thumbprint, wanted.spec.resolver).await
                }
            };
            match leads {
                Leads::Here => _ = proofs.insert(name.clone(), ChallengeProof::Http),
                _ if has_dns => _ = proofs.insert(name.clone(), ChallengeProof::Dns),
                Leads::Perhaps(why) => {
                    doubt = Some(why);
                    proofs.insert(name.clone(), ChallengeProof::Http);
                }
                Leads::Elsewhere(why) => problems.push(why),
            }
        }
        (proofs, doubt, problems)
    }

    fn is_late(&self, names: &BTreeSet<SiteName>) -> bool {
        names.iter().filter_map(|name| self.cover(name)).any(|(_, pair)| {
            let facts = certificate::facts(pair.chain.as_bytes());
            facts.is_ok_and(|facts| schedule::is_late(facts.from, facts.until, now()))
        })
    }

    /// Why a set must wait, and until when.
    fn waits(
        &self,
        id: &str,
        set: &SetDocument,
        wanted: &DesiredCertificates,
    ) -> Option<(Timestamp, String)> {
        if let Some(failure) = set.failure.as_ref().filter(|failure| failure.retry_at > now()) {
            return Some((failure.retry_at, waiting(failure)));
        }
        if let Some(failure) = self.unreachable.get(id).filter(|failure| failure.retry_at > now()) {
            return Some((failure.retry_at, waiting(failure)));
        }
        if let Some(until) = self.refused_until.get(&wanted.spec.directory).filter(|until| **until > now()) {
            let words = format!("the authority takes no orders before {}", moment(*until));
            return Some((*until, words));
        }
        let until = schedule::next_for_same_names(&set.issued, now())?;
        let words = format!(
            "{} certificates for the same names were issued within a week, which is the limit of authorities; next \
             attempt {}",
            set.issued.len(),
            moment(until)
        );
        Some((until, words))
    }

    /// After a failure or with a doubt, first at the staging directory, whose limits are wide.
    async fn attempt(
        &mut self,
        set: &mut SetDocument,
        proofs: &Proofs,
        is_doubtful: bool,
        wanted: &DesiredCertificates,
    ) -> Result<(), OrderFailure> {
        let has_failed =
            set.failure.is_some() || set.names.iter().any(|name| self.failed_names.contains_key(name));
        if let Some(staging) = wanted.spec.staging.clone().filter(|_| is_doubtful || has_failed) {
            info!(names = %list(&set.names), directory = staging, "trying at the staging directory first");
            self.at(&staging, wanted, None, proofs, set, true).await?;
        }
        let replaces = set.current.as_ref().filter(|current| current.directory == wanted.spec.directory);
        let replaces = replaces.and_then(|current| self.store.read_pair(&current.file, true).ok());
        let replaces = replaces.and_then(|pair| certificate::facts(pair.chain.as_bytes()).ok()?.id);
        let directory = wanted.spec.directory.clone();
        let first = self.at(&directory, wanted, replaces.clone(), proofs, set, false).await;
        match first {
            // An authority that lost its accounts registers this one again.
            Err(failed) if failed.kind == OrderFailureKind::NoAccount => {
                self.accounts.forget(&directory);
                self.at(&directory, wanted, replaces, proofs, set, false).await
            }
            other => other,
        }
    }

    async fn at(
        &mut self,
        directory: &str,
        wanted: &DesiredCertificates,
        replaces: Option<certificate::RenewalId>,
        proofs: &Proofs,
        set: &mut SetDocument,
        is_rehearsal: bool,
    ) -> Result<(), OrderFailure> {
        // What an earlier request noted is not about this one.
        let _ = self.accounts.patience().take();
        let account = self.account(directory, wanted).await;
        let account = account.map_err(|error| OrderFailure::of("the authority took no account", error))?;
        let attempt = Attempt {
            store: &self.store,
            account: &account,
            spec: &wanted.spec,
            directory,
            proofs,
            replaces,
        };
        if is_rehearsal {
            let rehearsed = attempt.rehearse(&set.names).await;
            return rehearsed.map_err(|failed| OrderFailure {
                message: format!("at the staging directory: {}", failed.message),
                ..failed
            });
        }
        attempt.issue(set).await
    }

    fn issued(&mut self, id: &str, set: SetDocument, wanted: &DesiredCertificates) {
        let had_failures = self.failed_names.len();
        self.failed_names.retain(|name, _| !set.names.contains(name));
        if self.failed_names.len() != had_failures
            && let Err(error) = self.store.save_failed_names(&self.failed_names)
        {
            warn!(%error, "the state of certificates cannot be written");
        }
        self.unreachable.remove(id);
        let pair = set.current.as_ref().map(|current| self.store.read_pair(&current.file, true));
        match pair {
            Some(Ok(pair)) => _ = self.pairs.insert(id.to_owned(), Arc::new(pair)),
            Some(Err(why)) => warn!(why, "a new certificate cannot be used"),
            None => {}
        }
        self.sets.insert(id.to_owned(), set);
        self.stand_in(wanted);
        (self.is_unpublished, self.is_pruned) = (true, false);
    }

    /// Remembers a failure, and returns when to try again.
    fn note(
        &mut self,
        id: &str,
        mut set: SetDocument,
        failed: &OrderFailure,
        wanted: &DesiredCertificates,
    ) -> Timestamp {
        let not_before = failed.not_before.max(self.accounts.patience().take());
        if matches!(
            failed.kind,
            OrderFailureKind::Unreachable | OrderFailureKind::Local | OrderFailureKind::NoAccount
        ) {
            let count = self.unreachable.get(id).map_or(0, |failure| failure.count);
            let pause = (UNREACHABLE.0 * 2_u32.saturating_pow(count.min(16))).min(UNREACHABLE.1);
            let (at, retry_at) = (now(), now().after(pause).max(not_before.unwrap_or_default()));
            let message = failed.message.clone();
            self.unreachable.insert(id.to_owned(), FailureStreak { count: count + 1, at, retry_at, message });
            self.sets.insert(id.to_owned(), set);
            return retry_at;
        }
        let has_staging = wanted.spec.staging.is_some();
        if let Some(not_before) = not_before {
            let until = not_before.min(now().after(LONGEST_REFUSAL));
            self.refused_until.insert(wanted.spec.directory.clone(), until);
        }
        let (at, written) = match &failed.name {
            Some(name) => {
                let before = self.failed_names.get(name);
                let failure =
                    schedule::failed(before, failed.message.clone(), now(), not_before, has_staging);
                self.failed_names.insert(name.clone(), failure);
                // The other names of the order are tried without this one, soon.
                (now().after(Duration::from_secs(1)), self.store.save_failed_names(&self.failed_names))
            }
            None => {
                let failure = schedule::failed(
                    set.failure.as_ref(),
                    failed.message.clone(),
                    now(),
                    not_before,
                    has_staging,
                );
                let at = failure.retry_at;
                set.failure = Some(failure);
                (at, self.store.save(&set))
            }
        };
        if let Err(error) = written {
            warn!(%error, "the state of certificates cannot be written");
        }
        self.sets.insert(id.to_owned(), set);
        at
    }
}

fn covers(pair: &Pair, name: &SiteName) -> bool {
    pair.names.iter().any(|own| own.covers(name))
}

/// Without the names that a wildcard among them covers.
fn without_covered(names: &BTreeSet<SiteName>) -> BTreeSet<SiteName> {
    let is_covered = |name: &&SiteName| names.iter().any(|other| other != *name && other.covers(name));
    names.iter().filter(|name| !is_covered(name)).cloned().collect()
}

fn waiting(failure: &FailureStreak) -> String {
    format!("{}; next attempt {}", failure.message, moment(failure.retry_at))
}

/// A time as people read it.
fn moment(at: Timestamp) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(at.as_millis());
    humantime::format_rfc3339_seconds(at).to_string()
}

fn sentence(problems: &[String]) -> String {
    let mut all: Vec<&str> =
        problems.iter().map(String::as_str).filter(|problem| !problem.is_empty()).collect();
    all.dedup();
    if all.is_empty() { "it is not ordered yet".to_owned() } else { all.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_the_names_one_level_below_it() {
        let names = |texts: &[&str]| texts.iter().map(|text| SiteName::new(*text).unwrap()).collect();
        let all: BTreeSet<SiteName> = names(&["*.a.example", "a.example", "b.a.example", "c.b.a.example"]);
        assert_eq!(without_covered(&all), names(&["*.a.example", "a.example", "c.b.a.example"]));
    }
}
