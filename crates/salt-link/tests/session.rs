//! Sign-in, session and the local master against a stand-in that speaks Salt's protocol.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use salt_link::requester::{RequestError, RequestFuture, Requester};
use salt_link::session::{Session, SessionConfig, SessionError};
use salt_link::sign_in::{SignIn, SignInConfig, SignInError, SignInOutcome, SignInStatus};
use salt_wire::auth::{AuthRequest, RefusedReason};
use salt_wire::crypticle::AesKey;
use salt_wire::ids::MinionId;
use salt_wire::keys::{EncAlgo, PrivateKey, PublicKey, SigAlgo};
use salt_wire::msgpack::{Dialect, Limits, Value, decode, encode};
use salt_wire::request::Nonce;
use salt_wire::standin::{Master, bad_load};

const TIMEOUT: Duration = Duration::from_secs(5);

/// What the master says to a sign-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Door {
    Open,
    Pending,
    Rejected,
    Silent,
}

struct StandIn {
    master: Mutex<Master>,
    door: Mutex<Door>,
    sign_ins: AtomicUsize,
    /// Refuse the sessions of everybody.
    deaf: std::sync::atomic::AtomicBool,
}

impl StandIn {
    fn new() -> Arc<Self> {
        let master = Master {
            key: PrivateKey::generate(2048).unwrap(),
            aes: AesKey::generate().unwrap(),
            session: AesKey::generate().unwrap(),
            publish_port: 4505,
        };
        Arc::new(Self {
            master: Mutex::new(master),
            door: Mutex::new(Door::Open),
            sign_ins: AtomicUsize::new(0),
            deaf: false.into(),
        })
    }

    fn set(&self, door: Door) {
        *self.door.lock().unwrap() = door;
    }

    fn restart(&self) {
        let mut master = self.master.lock().unwrap();
        master.aes = AesKey::generate().unwrap();
        master.session = AesKey::generate().unwrap();
    }

    fn answer(&self, frame: &Bytes) -> Option<Bytes> {
        let master = self.master.lock().unwrap();
        let envelope = decode(frame, Limits::CONTENT).unwrap();
        if envelope.get_str("enc") == Some("aes") {
            if self.deaf.load(Ordering::SeqCst) {
                return Some(bad_load());
            }
            return Some(match master.open(frame) {
                Ok(request) => master
                    .reply(&request.nonce, request.load.get("echo").unwrap())
                    .unwrap(),
                Err(_) => bad_load(),
            });
        }
        let load = envelope.get("load").unwrap();
        assert_eq!(load.get_str("cmd"), Some("_auth"));
        self.sign_ins.fetch_add(1, Ordering::SeqCst);
        let request = AuthRequest {
            id: MinionId::parse(load.get_str("id").unwrap()).unwrap(),
            public_key: PublicKey::from_pem(load.get_str("pub").unwrap().as_bytes()).unwrap(),
            nonce: Nonce::parse(load.get_str("nonce").unwrap()).unwrap(),
            enc_algo: EncAlgo::default(),
            sig_algo: SigAlgo::default(),
            token: load.get("token").and_then(Value::as_bytes).cloned(),
            autosign_grains: None,
        };
        match *self.door.lock().unwrap() {
            Door::Open => Some(master.accept(&request).unwrap()),
            Door::Pending => Some(master.answer(&request, true).unwrap()),
            Door::Rejected => Some(master.answer(&request, false).unwrap()),
            Door::Silent => None,
        }
    }
}

impl Requester for StandIn {
    fn request(&self, frame: Bytes, timeout: Duration) -> RequestFuture<'_> {
        Box::pin(async move {
            // Replies take their time, so that requests made at once overlap.
            tokio::time::sleep(Duration::from_millis(5)).await;
            match self.answer(&frame) {
                Some(reply) => Ok(reply),
                None => {
                    tokio::time::sleep(timeout).await;
                    Err(RequestError::TimedOut { after: timeout })
                }
            }
        })
    }
}

fn config(pki_dir: &Path) -> SignInConfig {
    SignInConfig::new(MinionId::parse("site1").unwrap(), pki_dir.to_owned())
}

fn sign_in(pki_dir: &Path, master: &Arc<StandIn>) -> SignIn {
    SignIn::new(config(pki_dir), Arc::clone(master) as Arc<dyn Requester>).unwrap()
}

fn session(pki_dir: &Path, master: &Arc<StandIn>) -> Arc<Session> {
    Arc::new(Session::new(sign_in(pki_dir, master), SessionConfig::default()).unwrap())
}

fn echo(number: i64) -> Value {
    Value::map([("cmd", "echo".into()), ("echo", Value::Int(number))])
}

mod signing_in {
    use super::*;

    #[tokio::test]
    async fn missing_keys_are_made_as_salt_makes_them_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki/minion");
        let master = StandIn::new();
        drop(sign_in(&pki, &master));
        let mode = |name: &str| {
            std::fs::metadata(pki.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(
            (mode("minion.pem"), mode("minion.pub") & 0o444),
            (0o400, 0o444)
        );
        let before = std::fs::read(pki.join("minion.pem")).unwrap();
        drop(sign_in(&pki, &master));
        assert_eq!(std::fs::read(pki.join("minion.pem")).unwrap(), before);
        // Nothing half-written is left behind.
        assert_eq!(std::fs::read_dir(&pki).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_key_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("minion.pem"), "nonsense").unwrap();
        let error = SignIn::new(config(dir.path()), StandIn::new()).unwrap_err();
        assert!(error.to_string().contains("minion.pem"), "{error}");
        assert_eq!(
            std::fs::read(dir.path().join("minion.pem")).unwrap(),
            b"nonsense"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_masters_key_is_trusted_at_first_use_and_compared_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let stored = dir.path().join("syndic_master.pub");
        let master = StandIn::new();
        let first = sign_in(dir.path(), &master).attempt().await.unwrap();
        assert!(matches!(first, SignInOutcome::Accepted(_)), "{first:?}");
        let key = std::fs::read_to_string(&stored).unwrap();
        assert_eq!(
            key,
            master
                .master
                .lock()
                .unwrap()
                .key
                .public_key()
                .unwrap()
                .to_pem()
        );
        let again = sign_in(dir.path(), &master).attempt().await.unwrap();
        assert!(matches!(again, SignInOutcome::Accepted(_)), "{again:?}");

        let impostor = StandIn::new();
        let signing_in = sign_in(dir.path(), &impostor);
        let error = signing_in.attempt().await.unwrap_err();
        assert!(matches!(error, SignInError::Reply { .. }), "{error:?}");
        assert!(!error.is_transient());
        let SignInStatus::Refused(told) = signing_in.status().borrow().clone() else {
            panic!()
        };
        assert!(told.contains(stored.to_str().unwrap()), "{told}");
        assert_eq!(
            std::fs::read_to_string(&stored).unwrap(),
            key,
            "the stored key stays"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_fingerprint_that_does_not_fit_stores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.finger = Some("aa:bb:cc".to_owned());
        let signing_in = SignIn::new(config, StandIn::new()).unwrap();
        assert!(signing_in.attempt().await.is_err());
        assert!(!dir.path().join("syndic_master.pub").exists());
    }

    #[tokio::test(start_paused = true)]
    async fn acceptance_and_the_end_of_a_rejection_are_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let master = StandIn::new();
        for (door, status) in [
            (Door::Pending, SignInStatus::Pending),
            (
                Door::Rejected,
                SignInStatus::Refused(RefusedReason::RejectedOrDenied.to_string()),
            ),
        ] {
            master.set(door);
            let signing_in = sign_in(dir.path(), &master);
            let mut told = signing_in.status();
            let operator = async {
                told.wait_for(|now| *now == status).await.unwrap();
                // Some rounds later somebody runs salt-key.
                let rounds = master.sign_ins.load(Ordering::SeqCst) + 3;
                while master.sign_ins.load(Ordering::SeqCst) < rounds {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                master.set(Door::Open);
            };
            let (_, ()) = tokio::join!(signing_in.until_accepted(), operator);
            assert_eq!(*signing_in.status().borrow(), SignInStatus::Accepted);
            assert_eq!(signing_in.counts().accepted, 1);
        }
    }

    #[tokio::test]
    async fn a_second_sign_in_is_told_although_it_ends_as_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let signing_in = sign_in(dir.path(), &StandIn::new());
        let mut told = signing_in.status();
        for accepted in 1..=2 {
            signing_in.attempt().await.unwrap();
            assert!(told.has_changed().unwrap(), "sign-in {accepted}");
            assert_eq!(*told.borrow_and_update(), SignInStatus::Accepted);
            assert_eq!(signing_in.counts().accepted, accepted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_master_is_asked_until_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        let master = StandIn::new();
        master.set(Door::Silent);
        let signing_in = sign_in(dir.path(), &master);
        let awake = async {
            while signing_in.counts().unanswered < 5 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            master.set(Door::Open);
        };
        let (_, ()) = tokio::join!(signing_in.until_accepted(), awake);
    }
}

mod sessions {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_requests_at_the_start_sign_in_once() {
        let dir = tempfile::tempdir().unwrap();
        let master = StandIn::new();
        let session = session(dir.path(), &master);
        let mut set = tokio::task::JoinSet::new();
        for number in 0..50 {
            let session = Arc::clone(&session);
            set.spawn(async move {
                let reply = session
                    .authenticated_request(echo(number), TIMEOUT)
                    .await
                    .unwrap();
                assert_eq!(reply, Value::Int(number));
            });
        }
        set.join_all().await;
        assert_eq!(master.sign_ins.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_master_is_signed_in_to_once_and_every_request_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let master = StandIn::new();
        let session = session(dir.path(), &master);
        session.signed_in().await;
        master.restart();
        let mut set = tokio::task::JoinSet::new();
        for number in 0..50 {
            let session = Arc::clone(&session);
            set.spawn(async move {
                let reply = session
                    .authenticated_request(echo(number), TIMEOUT)
                    .await
                    .unwrap();
                assert_eq!(reply, Value::Int(number));
            });
        }
        set.join_all().await;
        assert_eq!(master.sign_ins.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_that_refuses_every_session_is_not_flooded_with_sign_ins() {
        let dir = tempfile::tempdir().unwrap();
        let master = StandIn::new();
        master.deaf.store(true, Ordering::SeqCst);
        let session = session(dir.path(), &master);
        let began = tokio::time::Instant::now();
        for _ in 0..10 {
            let refused = session.authenticated_request(echo(1), TIMEOUT).await;
            assert!(
                matches!(refused, Err(SessionError::Reply(_))),
                "{refused:?}"
            );
        }
        let sign_ins = master.sign_ins.load(Ordering::SeqCst);
        let seconds = began.elapsed().as_secs_f64();
        assert!(
            sign_ins >= 10 && (sign_ins as f64) <= seconds + 2.0,
            "{sign_ins} in {seconds} s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn earlier_keys_are_kept_newest_first_once_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let master = StandIn::new();
        let bounds = SessionConfig {
            aes_keys_max: 3,
            ..SessionConfig::default()
        };
        let session = Session::new(sign_in(dir.path(), &master), bounds).unwrap();
        let mut given = Vec::new();
        let mut keys = session.signed_in().await;
        for round in 0..6 {
            given.insert(0, master.master.lock().unwrap().aes.to_text());
            // Every second time the master has not changed its key in between.
            keys = session.sign_in_again(&keys, "test").await;
            let held: Vec<_> = session.aes_keys().iter().map(AesKey::to_text).collect();
            given.truncate(4);
            assert_eq!(held, given, "round {round}");
            master.restart();
            keys = session.sign_in_again(&keys, "test").await;
        }
        assert_eq!(keys.generation, 13);
    }
}

mod local_master {
    use super::*;
    use salt_link::local_master::{LocalMaster, LocalMasterConfig, LocalMasterError};
    use salt_wire::commands::PublishReply;
    use salt_wire::publication::PublicationLoad;

    /// A master that publishes for one key.
    struct Publisher {
        key: Mutex<String>,
        loads: Mutex<Vec<Value>>,
    }

    impl Requester for Publisher {
        fn request(&self, frame: Bytes, _timeout: Duration) -> RequestFuture<'_> {
            let envelope = decode(&frame, Limits::CONTENT).unwrap();
            let load = envelope.get("load").unwrap().clone();
            let reply = if load.get_str("cmd") == Some("ping") {
                load
            } else if load.get_str("key") == Some(self.key.lock().unwrap().as_str()) {
                let jid = load.get("jid").unwrap().clone();
                self.loads.lock().unwrap().push(load);
                let minions = Value::array(["m1"]);
                let load = Value::map([
                    ("jid", jid),
                    ("minions", minions),
                    ("missing", Value::Array(Vec::new())),
                ]);
                Value::map([("enc", "clear".into()), ("load", load)])
            } else {
                let error = Value::map([
                    ("name", Value::from("AuthenticationError")),
                    ("message", "no".into()),
                ]);
                Value::map([("error", error)])
            };
            let reply = encode(&reply, Dialect::Old);
            Box::pin(async move { Ok(reply) })
        }
    }

    fn job() -> PublicationLoad {
        let load = Value::map([
            ("fun", Value::from("test.ping")),
            ("arg", Value::Array(Vec::new())),
            ("tgt", "*".into()),
            ("tgt_type", "glob".into()),
            ("jid", "20261120175418824928".into()),
            ("ret", "".into()),
        ]);
        PublicationLoad::new(load).unwrap()
    }

    fn local(cachedir: &Path, user: &str, key: &str) -> (Arc<Publisher>, LocalMaster) {
        let publisher = Arc::new(Publisher {
            key: Mutex::new(key.to_owned()),
            loads: Mutex::default(),
        });
        let config = LocalMasterConfig {
            cachedir: cachedir.to_owned(),
            user: user.to_owned(),
            timeout: TIMEOUT,
        };
        (Arc::clone(&publisher), LocalMaster::new(config, publisher))
    }

    #[tokio::test]
    async fn a_job_is_published_with_the_key_on_disk_of_the_masters_user() {
        for (user, file) in [
            ("root", ".root_key"),
            ("salt", ".salt_key"),
            ("D\\u", ".D_u_key"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(file), "the-key").unwrap();
            let (publisher, local) = local(dir.path(), user, "the-key");
            local.ping().await.unwrap();
            let reply = local.publish(&job(), Duration::from_secs(5)).await.unwrap();
            assert!(matches!(reply, PublishReply::Published { .. }), "{reply:?}");
            assert_eq!(
                publisher.loads.lock().unwrap()[0].get_str("user"),
                Some(user)
            );
        }
    }

    #[tokio::test]
    async fn a_new_key_of_a_restarted_master_is_read_once_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".root_key");
        std::fs::write(&file, "old").unwrap();
        let (publisher, local) = local(dir.path(), "root", "old");
        local.publish(&job(), Duration::from_secs(5)).await.unwrap();
        *publisher.key.lock().unwrap() = "new".to_owned();
        // The master listens before it has written the file.
        let refused = local.publish(&job(), Duration::from_secs(5)).await;
        assert!(
            matches!(refused, Err(LocalMasterError::Authentication { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().is_transient());
        std::fs::write(&file, "new").unwrap();
        local.publish(&job(), Duration::from_secs(5)).await.unwrap();
        assert_eq!(publisher.loads.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_missing_or_empty_key_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (_publisher, local) = local(dir.path(), "root", "key");
        let error = local
            .publish(&job(), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(
            matches!(error, LocalMasterError::KeyFile { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(".root_key"), "{error}");
        std::fs::write(dir.path().join(".root_key"), "\n").unwrap();
        let error = local
            .publish(&job(), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(matches!(error, LocalMasterError::Key { .. }), "{error:?}");
    }
}
