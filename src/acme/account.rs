//! Accounts at authorities. One key serves all of them, so one thumbprint answers every challenge.

use std::collections::HashMap;
use std::path::PathBuf;

use instant_acme::{Account, Error, Key, Problem};
use tracing::{info, warn};

use super::http::{Http, Patience};
use crate::tls::certificate;

/// How often to register with nonces that the authority does not take. The library itself tries each three times.
const ATTEMPTS: usize = 3;

/// The accounts of this host, by directory. Each is registered when it is first needed: a daemon that starts
/// while an authority is away must not fail.
pub(super) struct Accounts {
    key: Vec<u8>,
    thumbprint: String,
    patience: Patience,
    known: HashMap<String, Account>,
}

impl Accounts {
    /// # Errors
    /// The key is unusable.
    pub(super) fn new(key: Vec<u8>) -> Result<Self, Error> {
        let thumbprint = thumbprint(&key)?;
        Ok(Self { key, thumbprint, patience: Patience::default(), known: HashMap::new() })
    }

    pub(super) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The time before which the last asked authority wants no more requests.
    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// The account at a directory. Registering a key again gives the account that it has.
    pub(super) async fn get(
        &mut self,
        directory: &str,
        ca_file: Option<PathBuf>,
        email: Option<&str>,
    ) -> Result<Account, Error> {
        if let Some(account) = self.known.get(directory) {
            return Ok(account.clone());
        }
        let mut attempts = 0;
        let account = loop {
            attempts += 1;
            let http = Http::new(ca_file.clone(), self.patience.clone());
            let key = (Key::from_pkcs8_der(self.key.clone().into())?, certificate::pkcs8(self.key.clone()));
            let builder = Account::builder_with_http(Box::new(http));
            match builder.create_from_key(key, directory.to_owned()).await {
                Ok((account, _)) => break account,
                Err(Error::Api(problem)) if is_bad_nonce(&problem) && attempts < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        };
        info!(account = account.id(), directory, "registered at the authority");
        if let Some(email) = email {
            let contact = format!("mailto:{email}");
            if let Err(error) = account.update_contacts(&[&contact]).await {
                warn!(%error, directory, "the authority does not take the e-mail address");
            }
        }
        self.known.insert(directory.to_owned(), account.clone());
        Ok(account)
    }

    /// Forgets an account that the authority does not know any more.
    pub(super) fn forget(&mut self, directory: &str) {
        self.known.remove(directory);
    }

    /// Forgets all accounts: the way to the authorities changed.
    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }
}

/// RFC 8555, section 6.5: the request is to be sent again with another nonce.
fn is_bad_nonce(problem: &Problem) -> bool {
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce")
}

/// The thumbprint of an account's key (RFC 7638), which is in every answer to a challenge.
fn thumbprint(key: &[u8]) -> Result<String, Error> {
    // The ACME client has it only in an account, so it is computed here from the public key.
    certificate::thumbprint(key).map_err(|error| Error::Other(error.into()))
}
