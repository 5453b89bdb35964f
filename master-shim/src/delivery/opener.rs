//! Opens publications: decrypts, verifies the MoM's signature, and follows the MoM's serial.
//!
//! What does not open is tried with the keys of a new sign-in, then with earlier keys.

use std::sync::Arc;

use daemon_kit::steady_millis;
use relay_core::{
    entry::{EntryId, Publication as Entry},
    serials::{Gap, Hop, Serials},
};
use salt_link::session::{Session, SessionKeys};
use salt_wire::{
    crypticle::AesKey,
    ids::Jid,
    publication::{Publication, PublicationError, PublicationLoad, Signature},
};

use crate::telemetry::{LostAt, Telemetry};

/// Why a publication will never be published here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// No key opens it, or it is no publication.
    #[error("the publication cannot be opened")]
    Frame(#[source] PublicationError),
    /// Its signature is wrong.
    #[error("the publication of job {jid} cannot be trusted")]
    Signature {
        /// The job that it says it is.
        jid: Jid,
        /// What is wrong.
        #[source]
        source: PublicationError,
    },
    /// `sign_pub_messages` is on here, and off at the MoM.
    #[error("the MoM has not signed job {jid}, and sign_pub_messages is on at this site")]
    Unsigned {
        /// The job.
        jid: Jid,
    },
}

impl Unusable {
    /// The job, where the publication opened.
    pub(super) fn jid(&self) -> Option<&Jid> {
        match self {
            Self::Frame(_) => None,
            Self::Signature { jid, .. } | Self::Unsigned { jid } => Some(jid),
        }
    }
}

/// Opens the publications of one MoM, in their order.
pub(super) struct Opener {
    session: Arc<Session>,
    signature_required: bool,
    serials: Serials<AesKey>,
    telemetry: Telemetry,
}

impl Opener {
    /// `signature_required`: whether an unsigned publication is refused.
    pub(super) fn new(
        session: Arc<Session>,
        signature_required: bool,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            session,
            signature_required,
            serials: Serials::default(),
            telemetry,
        }
    }

    /// Decrypts and verifies; waits for a sign-in when the key is not known.
    pub(super) async fn open(&mut self, entry: &Entry) -> Result<PublicationLoad, Unusable> {
        let publication = Publication::parse(&entry.frame).map_err(Unusable::Frame)?;
        let keys = self.session.signed_in().await;
        let (load, aes) = match self.decrypt(&publication) {
            Err(err) if err.is_wrong_key() => {
                self.session
                    .sign_in_again(&keys, "a publication does not open")
                    .await;
                self.decrypt(&publication)
            }
            opened => opened,
        }
        .map_err(Unusable::Frame)?;
        self.verify(&publication, load.jid()).await?;
        match load.serial() {
            Some(serial) => {
                let gaps = self
                    .serials
                    .opened(&aes, serial, entry.entry_id, steady_millis());
                self.count(&gaps);
            }
            None => self.serials.passed(entry.entry_id),
        }
        Ok(load)
    }

    /// The entry is passed over without being opened.
    pub(super) fn passed(&mut self, entry_id: EntryId) {
        self.serials.passed(entry_id);
    }

    /// Whether publications are missing that may still come.
    pub(super) fn awaits_late_ones(&self) -> bool {
        self.serials.open_gaps() > 0
    }

    /// Counts publications that have not come in time.
    pub(super) fn count_lost(&mut self) {
        let lost = self.serials.lost(steady_millis());
        self.count(&lost);
    }

    fn count(&self, gaps: &[Gap]) {
        for gap in gaps {
            let (at, whose) = match gap.hop {
                Hop::Mom => (LostAt::Mom, "they never reached a bridge"),
                Hop::Redis => (LostAt::Redis, "Redis forgot them, and no bridge had them"),
            };
            let what = format!("the MoM's serials {} to {}: {whose}", gap.from, gap.to);
            self.telemetry.lost(at, gap.publications(), &what);
        }
    }

    fn decrypt(
        &self,
        publication: &Publication,
    ) -> Result<(PublicationLoad, AesKey), PublicationError> {
        let mut result = None;
        for aes in self.session.aes_keys() {
            match publication.decrypt(&aes) {
                Ok(load) => return Ok((load, aes)),
                // The current key's error tells most.
                Err(err) => result = result.or(Some(err)),
            }
        }
        Err(result.expect("a session that is signed in has a key"))
    }

    async fn verify(&self, publication: &Publication, jid: &Jid) -> Result<(), Unusable> {
        let jid = || jid.clone();
        let keys: Arc<SessionKeys> = self.session.signed_in().await;
        match publication.verify(&keys.credentials.master_key) {
            Ok(Signature::Absent) if self.signature_required => {
                Err(Unusable::Unsigned { jid: jid() })
            }
            Ok(Signature::Valid | Signature::Absent) => Ok(()),
            Err(source) => Err(Unusable::Signature { jid: jid(), source }),
        }
    }
}
