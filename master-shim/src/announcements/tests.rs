use std::{collections::VecDeque, fs, path::Path, sync::Mutex};

use bytes::Bytes;
use daemon_kit::metrics::Metrics;
use salt_link::{
    requester::{RequestError, RequestFuture, Requester},
    salt_config::MasterConfig,
    session::SessionConfig,
    sign_in::{SignIn, SignInConfig},
};
use salt_wire::{crypticle::AesKey, gate, keys::PrivateKey, msgpack::Value, standin::Master};
use store::SpoolConfig;
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::roster::RosterTask;

/// Longer than every pause between two requests, by the paused clock.
const SOON: Duration = Duration::from_secs(60);

/// Ids of this length and number make two parts.
const MINIONS: usize = 1_500;
const ID_LENGTH: usize = 200;

/// What becomes of a request with a part of the roster.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    /// The MoM says nothing for as long as the request may take.
    Unanswered,
    /// The bridge does not let it through.
    Refused,
}

/// A MoM that lets everybody in, and answers parts of the roster as the test has told it to, all others at once.
struct ScriptedMom {
    master: Master,
    script: Mutex<VecDeque<Fate>>,
    requests: mpsc::Sender<Vec<SiteEvent>>,
}

impl ScriptedMom {
    fn fate(&self, events: &[SiteEvent]) -> Fate {
        let is_roster = |event: &SiteEvent| matches!(event, SiteEvent::Roster(_));
        let mut script = self.script.lock().expect("no test panics here");
        let next = events.iter().any(is_roster).then(|| script.pop_front());
        next.flatten().unwrap_or(Fate::Answered)
    }

    fn events(&self, frame: &Bytes) -> (Vec<SiteEvent>, Bytes) {
        let request = self.master.open(frame).expect("a request of the session");
        let events = request.load.get("events").and_then(Value::as_array);
        let parse = |event: &Value| {
            let (tag, data) = (event.get_str("tag"), event.get("data"));
            SiteEvent::parse(tag.expect("a tag"), data.expect("data"))
        };
        let events = events.expect("a list of events").iter().map(parse);
        let events = events.map(|event| event.expect("well-formed").expect("a site's"));
        let reply = self.master.reply(&request.nonce, &Value::Nil);
        (events.collect(), reply.expect("sealed"))
    }
}

impl Requester for ScriptedMom {
    fn request(&self, frame: Bytes, timeout: Duration) -> RequestFuture<'_> {
        Box::pin(async move {
            if let Ok(auth) = gate::read_auth(&frame) {
                return Ok(self.master.accept(&auth).expect("accepted"));
            }
            let (events, reply) = self.events(&frame);
            let fate = self.fate(&events);
            self.requests.send(events).await.expect("the test listens");
            match fate {
                Fate::Answered => Ok(reply),
                Fate::Unanswered => {
                    sleep(timeout).await;
                    Err(RequestError::TimedOut { after: timeout })
                }
                Fate::Refused => {
                    let reason = "by the test".to_owned();
                    Err(RequestError::Refused { reason })
                }
            }
        })
    }
}

/// A site that tells a scripted MoM of its minions.
struct Rig {
    directory: tempfile::TempDir,
    metrics: Metrics,
    roster: Roster,
    requests: mpsc::Receiver<Vec<SiteEvent>>,
}

impl Rig {
    fn new(script: &[Fate]) -> (Self, AnnouncementsTask) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let metrics = Metrics::new("test", "0");
        let telemetry = Telemetry::new(&metrics, "site1");
        let site: MinionId = "site1".parse().expect("an id");
        let roster = Roster::new(site.clone(), &lower_master(path), telemetry.clone());
        // Requests are taken one by one; a queue of this length is never full.
        let (sender, requests) = mpsc::channel(16);
        let mom: Arc<dyn Requester> = Arc::new(ScriptedMom {
            master: Master {
                key: PrivateKey::generate(2048).expect("a key"),
                aes: AesKey::generate().expect("a key"),
                session: AesKey::generate().expect("a key"),
                publish_port: 4505,
            },
            script: Mutex::new(script.iter().copied().collect()),
            requests: sender,
        });
        let mut sign_in = SignInConfig::new(site.clone(), path.join("syndic"));
        sign_in.keysize = 2048;
        let sign_in = SignIn::new(sign_in, mom).expect("a sign-in");
        let session = Session::new(sign_in, SessionConfig::default()).expect("a session");
        let spool = Spool::open(&path.join("spool.db"), SpoolConfig::default());
        let (spool, _) = spool.expect("opened");
        let news = News::default();
        news.beat("b1", None);
        let task = AnnouncementsTask::new(AnnouncementsParts {
            site,
            run: "run".to_owned(),
            roster: roster.clone(),
            figures: Arc::new(Figures {
                last_hop: LastHopFigures::default(),
                lag: Arc::default(),
                cursor: None,
                tenure: Tenure::new(false),
                spool,
            }),
            news,
            session: Arc::new(session),
            telemetry,
        });
        let rig = Self {
            directory,
            metrics,
            roster,
            requests,
        };
        (rig, task)
    }

    fn accept(&self, minion: &str) {
        let file = self.directory.path().join("pki/minions").join(minion);
        fs::write(file, "a key").expect("written");
    }

    /// The next request, in short; statuses that come alone are passed over.
    async fn request(&mut self) -> String {
        loop {
            let next = timeout(SOON, self.requests.recv()).await;
            let events = next.expect("a request in time").expect("the MoM stands");
            let rosters = events.iter().filter_map(|event| match event {
                SiteEvent::Roster(roster) => Some(roster),
                SiteEvent::Status(_) | SiteEvent::Job(_) | SiteEvent::Receipts(_) => None,
            });
            let short = rosters.map(|roster| {
                let kind = match roster.kind {
                    RosterKind::Full => "full",
                    RosterKind::Change { .. } => "change",
                };
                let (number, part, parts) = (roster.number, roster.part + 1, roster.parts);
                format!("{kind} {number}, {part} of {parts}")
            });
            let short = short.collect::<Vec<_>>().join("; ");
            if !short.is_empty() {
                return short;
            }
        }
    }

    /// How often the metrics say that the MoM was told a thing of this kind.
    fn announced(&self, kind: &str) -> String {
        let name = format!("saltway_announcements_total{{kind=\"{kind}\"}} ");
        let text = self.metrics.encode().expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("a series").to_owned()
    }
}

fn lower_master(path: &Path) -> MasterConfig {
    let file = path.join("master");
    let lines = [
        format!("root_dir: {}", path.display()),
        format!("pki_dir: {}/pki", path.display()),
        format!("cachedir: {}/cache", path.display()),
    ];
    fs::write(&file, lines.join("\n") + "\n").expect("written");
    for made in ["pki/minions", "cache", "syndic"] {
        fs::create_dir_all(path.join(made)).expect("made");
    }
    MasterConfig::load(&file).expect("a configuration")
}

#[tokio::test(start_paused = true)]
async fn part_of_the_roster_is_told_until_the_mom_has_answered_for_it() {
    let (mut rig, task) = Rig::new(&[
        // The first part of the roster, the second one, a change.
        Fate::Unanswered,
        Fate::Unanswered,
        Fate::Refused,
        Fate::Answered,
        Fate::Refused,
        Fate::Unanswered,
        Fate::Answered,
        Fate::Unanswered,
        Fate::Refused,
        Fate::Answered,
    ]);
    for number in 0..MINIONS {
        rig.accept(&format!("{number:0ID_LENGTH$}"));
    }
    let shutdown = CancellationToken::new();
    let looks = RosterTask::new(rig.roster.clone());
    let test = async {
        let began = Instant::now();
        assert_eq!(rig.request().await, "full 1, 1 of 2");
        // A bridge that is new is told everything anew after a while, under another number.
        assert_eq!(rig.request().await, "full 2, 1 of 2");
        assert_eq!(rig.request().await, "full 2, 1 of 2");
        assert!(began.elapsed() >= 2 * REQUEST_TIMEOUT, "one at a time");
        let announced = ["full", "status"].map(|kind| rig.announced(kind));
        assert_eq!(announced, ["0", "0"], "nothing was answered");
        assert_eq!(rig.request().await, "full 2, 1 of 2");
        // That one was answered.
        for _ in 0..3 {
            assert_eq!(rig.request().await, "full 2, 2 of 2");
        }
        rig.accept("new");
        rig.roster.look_again();
        for _ in 0..3 {
            assert_eq!(rig.request().await, "change 3, 1 of 1");
        }
    };
    tokio::select! {
        () = test => {}
        () = task.run(shutdown.clone()) => panic!("the task has ended"),
        () = looks.run(shutdown.clone()) => panic!("the roster's task has ended"),
    }
    assert_eq!(rig.announced("full"), "2");
}
