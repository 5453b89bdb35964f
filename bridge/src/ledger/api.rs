//! The interface of the ledger over HTTP: JSON under `/api/v1`, and the status page at `/`.
//!
//! ```text
//! GET ──► query checked ──► Ask ──bounded queue──► ledger task ──► answer ──► JSON
//! ```
//! - Reading only; nothing here changes anything.
//! - A question waits at most [`PATIENCE`]: a ledger that is busy with the bus answers 503, it is never held up by readers.

use std::time::Duration;

use daemon_kit::http::axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use relay_core::target::Target;
use salt_wire::ids::{Jid, MinionId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the ledger. Further ones wait their turn, up to [`PATIENCE`].
pub(super) const QUEUED_MAX: usize = 16;

/// How long a question may wait.
const PATIENCE: Duration = Duration::from_secs(5);

const PAGE: &str = include_str!("../page/index.html");

/// Nothing but the page itself may run or be asked.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Rows of a list unless the question says otherwise, and at most.
const JOBS_DEFAULT: usize = 50;
const JOBS_MAX: usize = 1_000;
const MINIONS_DEFAULT: usize = 1_000;
const MINIONS_MAX: usize = 2_000_000;

/// What the ledger is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    Status,
    Sites,
    Jobs {
        limit: usize,
        before: Option<Jid>,
        state: Option<JobState>,
    },
    Job {
        jid: Jid,
        verdict: Option<String>,
        limit: usize,
    },
    Missing {
        jid: Jid,
    },
    Roster {
        site: Option<MinionId>,
        limit: usize,
    },
    Expect {
        tgt: Target,
        tgt_type: String,
    },
}

/// How a job stands, as a word of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum JobState {
    Open,
    Complete,
    Incomplete,
    Expired,
}

/// The answer, as JSON.
pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// A question with the way back.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) question: Question,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: &'static str,
}

impl Refusal {
    pub(super) fn bad(error: impl Into<String>, hint: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }

    pub(super) fn not_found(error: impl Into<String>, hint: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, hint)
    }

    pub(super) fn unavailable(error: impl Into<String>, hint: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
    }

    fn new(status: StatusCode, error: impl Into<String>, hint: &'static str) -> Self {
        Self {
            status,
            error: error.into(),
            hint,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Told<'a> {
            error: &'a str,
            hint: &'a str,
        }
        let told = Told {
            error: &self.error,
            hint: self.hint,
        };
        let body = serde_json::to_vec(&told).unwrap_or_default();
        (self.status, JSON_HEADERS, body).into_response()
    }
}

const JSON_HEADERS: [(header::HeaderName, HeaderValue); 2] = [
    (
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Where questions go; `None` while no ledger is kept, with the reason.
#[derive(Debug, Clone)]
pub(super) struct Desk(Result<mpsc::Sender<Ask>, String>);

impl Desk {
    pub(super) fn open(questions: mpsc::Sender<Ask>) -> Self {
        Self(Ok(questions))
    }

    pub(super) fn closed(reason: String) -> Self {
        Self(Err(reason))
    }

    async fn ask(&self, question: Question) -> Response {
        match tokio::time::timeout(PATIENCE, self.answer(question)).await {
            Ok(Ok(json)) => (StatusCode::OK, JSON_HEADERS, json).into_response(),
            Ok(Err(refusal)) => refusal.into_response(),
            Err(_) => busy().into_response(),
        }
    }

    async fn answer(&self, question: Question) -> Answer {
        let questions = self.0.as_ref().map_err(|reason| {
            let hint = "see `ledger` in the bridge's configuration, and its log";
            Refusal::unavailable(format!("this bridge keeps no ledger: {reason}"), hint)
        })?;
        let (sender, answer) = oneshot::channel();
        let ask = Ask {
            question,
            answer: sender,
        };
        questions.send(ask).await.map_err(|_| busy())?;
        answer.await.map_err(|_| busy())?
    }
}

fn busy() -> Refusal {
    Refusal::unavailable("the ledger did not answer in time", "ask again in a moment")
}

/// The pages of the bridge.
pub(super) fn router(desk: Desk) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/api/v1/status", get(status))
        .route("/api/v1/sites", get(sites))
        .route("/api/v1/jobs", get(jobs))
        .route("/api/v1/jobs/{jid}", get(job))
        .route("/api/v1/jobs/{jid}/missing", get(missing))
        .route("/api/v1/roster", get(roster))
        .route("/api/v1/expect", get(expect))
        .fallback(async || Refusal::not_found("no such page", "begin at / or /api/v1/status"))
        .with_state(desk)
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(PAGE)).into_response()
}

async fn status(State(desk): State<Desk>) -> Response {
    desk.ask(Question::Status).await
}

async fn sites(State(desk): State<Desk>) -> Response {
    desk.ask(Question::Sites).await
}

/// What stands behind the `?`, as text: what is wrong with it is told in our own form.
#[derive(Debug, Default, Deserialize)]
struct Parameters {
    limit: Option<String>,
    before: Option<String>,
    state: Option<String>,
    verdict: Option<String>,
    site: Option<String>,
    tgt: Option<String>,
    tgt_type: Option<String>,
}

type Given<T> = Result<Query<T>, daemon_kit::http::axum::extract::rejection::QueryRejection>;

async fn jobs(State(desk): State<Desk>, given: Given<Parameters>) -> Response {
    reply(&desk, given, |given| {
        let state = given.state.as_deref().map(|word| {
            let hint = "open, complete, incomplete or expired";
            serde_json::from_value(word.into())
                .map_err(|_| Refusal::bad(format!("unknown state {word:?}"), hint))
        });
        Ok(Question::Jobs {
            limit: limit(given.limit.as_deref(), JOBS_DEFAULT, JOBS_MAX)?,
            before: given.before.as_deref().map(jid).transpose()?,
            state: state.transpose()?,
        })
    })
    .await
}

async fn job(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    given: Given<Parameters>,
) -> Response {
    reply(&desk, given, |given| {
        Ok(Question::Job {
            jid: jid(&id)?,
            verdict: given.verdict,
            limit: limit(given.limit.as_deref(), MINIONS_DEFAULT, MINIONS_MAX)?,
        })
    })
    .await
}

async fn missing(State(desk): State<Desk>, Path(id): Path<String>) -> Response {
    match jid(&id) {
        Ok(jid) => desk.ask(Question::Missing { jid }).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn roster(State(desk): State<Desk>, given: Given<Parameters>) -> Response {
    reply(&desk, given, |given| {
        let site = given.site.as_deref().map(|site| {
            let hint = "a site's name is its lower master's id";
            MinionId::parse(site).map_err(|err| Refusal::bad(format!("{site:?}: {err}"), hint))
        });
        Ok(Question::Roster {
            site: site.transpose()?,
            limit: limit(given.limit.as_deref(), MINIONS_DEFAULT, MINIONS_MAX)?,
        })
    })
    .await
}

async fn expect(State(desk): State<Desk>, given: Given<Parameters>) -> Response {
    reply(&desk, given, |given| {
        let tgt = given.tgt.filter(|tgt| !tgt.is_empty()).ok_or_else(|| {
            let hint = "write ?tgt=TARGET, and &tgt_type=TYPE unless it is a glob";
            Refusal::bad("no target", hint)
        })?;
        let tgt_type = given.tgt_type.unwrap_or_else(|| "glob".to_owned());
        let ids = || tgt.split(',').map(str::trim).map(str::to_owned);
        let tgt = match tgt_type.as_str() {
            "list" => Target::List(ids().filter(|id| !id.is_empty()).collect()),
            _ => Target::Text(tgt),
        };
        Ok(Question::Expect { tgt, tgt_type })
    })
    .await
}

async fn reply(
    desk: &Desk,
    given: Given<Parameters>,
    question: impl FnOnce(Parameters) -> Result<Question, Refusal>,
) -> Response {
    let given = given.map_err(|err| {
        Refusal::bad(
            format!("the query cannot be read: {err}"),
            "write ?name=value&name=value",
        )
    });
    match given.and_then(|Query(given)| question(given)) {
        Ok(question) => desk.ask(question).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn jid(text: &str) -> Result<Jid, Refusal> {
    Jid::parse(text).map_err(|err| {
        let hint = "a jid looks like 20261121180000123456";
        Refusal::bad(format!("{text:?} is no jid: {err}"), hint)
    })
}

fn limit(text: Option<&str>, default: usize, max: usize) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(default) };
    match text.parse() {
        Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
        _ => Err(Refusal::bad(
            format!("limit {text:?} is not a number from 1 to {max}"),
            "leave it out for the default",
        )),
    }
}
