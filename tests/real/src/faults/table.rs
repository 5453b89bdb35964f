//! The figures as a Markdown table, and as lines of JSON that can be read back.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::Relay;

use super::{
    case::Case,
    outcome::{Control, Lost, Outcome, Place},
};

const PLACES: [Place; 5] = [
    Place::NotPublishedBelow,
    Place::NotRun,
    Place::GivenUp,
    Place::NotReturned,
    Place::NotRecorded,
];

/// Both relays' figures, one line per case.
#[must_use]
pub fn markdown(outcomes: &[Outcome]) -> String {
    let both = [
        "run",
        "twice",
        "recorded",
        "late",
        "delivered after",
        "healthy after",
    ];
    let mut header = vec!["fault".to_owned(), "jobs".to_owned()];
    header.extend(both.map(str::to_owned));
    header.extend(["longest delay", "control p99"].map(str::to_owned));
    header.extend(both.map(|column| format!("syndic: {column}")));
    let rule = vec!["---".to_owned(); header.len()];
    let mut lines = vec![header, rule];
    for case in Case::ALL {
        let of = |relay| {
            outcomes
                .iter()
                .rfind(|outcome| outcome.case == *case && outcome.relay == relay)
        };
        let (saltway, syndic) = (of(Relay::Saltway), of(Relay::Syndic));
        let Some(any) = saltway.or(syndic) else {
            continue;
        };
        let mut line = vec![case.text().to_owned(), any.jobs.to_string()];
        line.extend(saltway.map_or(vec![String::new(); 8], |it| {
            let mut cells = cells(it);
            cells.push(format!("{:.1} s", it.longest));
            cells.push(it.control.as_ref().map_or("-".to_owned(), control));
            cells
        }));
        line.extend(syndic.map_or(vec!["-".to_owned(); 6], cells));
        lines.push(line);
    }
    let lines: Vec<String> = lines
        .iter()
        .map(|cells| format!("| {} |\n", cells.join(" | ")))
        .collect();
    lines.concat()
}

fn cells(outcome: &Outcome) -> Vec<String> {
    let expired = match outcome.expired {
        0 => String::new(),
        expired => format!(", {expired} expired"),
    };
    let given_up = match outcome.given_up() {
        0 => String::new(),
        given_up => format!(", {given_up} given up by minions"),
    };
    vec![
        format!("{}{expired}", percent(outcome.run, outcome.wanted)),
        outcome.twice.to_string(),
        format!("{}{given_up}", percent(outcome.recorded, outcome.wanted)),
        outcome.late.to_string(),
        format!("{:.1} s", outcome.delivered),
        match outcome.healthy {
            Some(healthy) => format!("{healthy:.1} s"),
            None => "not within 60 s".to_owned(),
        },
    ]
}

fn control(control: &Control) -> String {
    let lost = match control.wanted - control.recorded {
        0 => String::new(),
        lost => format!(", {lost} lost"),
    };
    format!("{:.2} → {:.2} s{lost}", control.before, control.during)
}

/// 100 only for all of them.
fn percent(part: usize, whole: usize) -> String {
    if part == whole {
        return "100 %".to_owned();
    }
    let tenths = part * 1000 / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// One outcome as one line.
#[must_use]
pub fn json_line(outcome: &Outcome) -> String {
    let lost: Vec<Value> = outcome
        .lost
        .iter()
        .map(|it| json!([it.number, it.jid, it.minion, it.place.text(), it.at]))
        .collect();
    let control = outcome.control.as_ref();
    json!({
        "case": outcome.case.name(),
        "relay": relay_name(outcome.relay),
        "release": outcome.release,
        "jobs": outcome.jobs,
        "refused": outcome.refused,
        "wanted": outcome.wanted,
        "run": outcome.run,
        "twice": outcome.twice,
        "recorded": outcome.recorded,
        "late": outcome.late,
        "expired": outcome.expired,
        "delivered": outcome.delivered,
        "healthy": outcome.healthy,
        "longest": outcome.longest,
        "control": control.map(|it| json!([it.wanted, it.recorded, it.before, it.during])),
        "lost": lost,
        "repeated": outcome.repeated,
        "misjudged": outcome.misjudged,
    })
    .to_string()
}

/// Reads what [`json_line`] has written.
///
/// # Errors
/// When it is something else.
pub fn parse_line(line: &str) -> Result<Outcome> {
    let value: Value = serde_json::from_str(line)?;
    let text = |key: &str| {
        value[key]
            .as_str()
            .with_context(|| format!("{key} is no text"))
    };
    let count = |key: &str| {
        let number = value[key].as_u64().and_then(|it| usize::try_from(it).ok());
        number.with_context(|| format!("{key} is no number"))
    };
    let lost = value["lost"].as_array().context("lost is no list")?;
    Ok(Outcome {
        case: text("case")?.parse()?,
        relay: relay(text("relay")?)?,
        release: text("release")?.to_owned(),
        jobs: count("jobs")?,
        refused: count("refused")?,
        wanted: count("wanted")?,
        run: count("run")?,
        twice: count("twice")?,
        recorded: count("recorded")?,
        late: count("late")?,
        expired: count("expired")?,
        delivered: value["delivered"]
            .as_f64()
            .context("delivered is no number")?,
        healthy: value["healthy"].as_f64(),
        longest: value["longest"].as_f64().context("longest is no number")?,
        control: parse_control(&value["control"])?,
        lost: lost.iter().map(parse_lost).collect::<Result<_>>()?,
        repeated: count("repeated")?,
        // Lines of before the ledger do not have it.
        misjudged: value["misjudged"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect(),
    })
}

fn parse_control(value: &Value) -> Result<Option<Control>> {
    if value.is_null() {
        return Ok(None);
    }
    let count = |index: usize| {
        value[index]
            .as_u64()
            .and_then(|it| usize::try_from(it).ok())
    };
    let seconds = |index: usize| value[index].as_f64();
    let control = || {
        Some(Control {
            wanted: count(0)?,
            recorded: count(1)?,
            before: seconds(2)?,
            during: seconds(3)?,
        })
    };
    control().context("control has four numbers").map(Some)
}

fn parse_lost(value: &Value) -> Result<Lost> {
    let place = |text: &str| PLACES.into_iter().find(|place| place.text() == text);
    let lost = || {
        Some(Lost {
            number: value[0].as_u64()?,
            jid: value[1].as_str()?.to_owned(),
            minion: value[2].as_str()?.to_owned(),
            place: place(value[3].as_str()?)?,
            at: value[4].as_f64()?,
        })
    };
    lost().with_context(|| format!("not a lost job: {value}"))
}

fn relay_name(relay: Relay) -> &'static str {
    match relay {
        Relay::Saltway => "saltway",
        Relay::Syndic => "syndic",
        Relay::Nothing => "nothing",
    }
}

fn relay(name: &str) -> Result<Relay> {
    match name {
        "saltway" => Ok(Relay::Saltway),
        "syndic" => Ok(Relay::Syndic),
        other => bail!("there is no relay {other}: saltway or syndic"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_and_the_table_says_what_is_missing() {
        let outcome = Outcome {
            case: Case::Silence10,
            relay: Relay::Syndic,
            release: "3008.3".to_owned(),
            jobs: 40,
            refused: 0,
            wanted: 80,
            run: 79,
            twice: 1,
            recorded: 78,
            late: 0,
            expired: 0,
            delivered: 12.0,
            healthy: None,
            longest: 12.25,
            control: Some(Control {
                wanted: 80,
                recorded: 80,
                before: 0.25,
                during: 0.5,
            }),
            lost: vec![Lost {
                number: 3,
                jid: "j3".to_owned(),
                minion: "a1".to_owned(),
                place: Place::NotRun,
                at: 2.5,
            }],
            repeated: 0,
            misjudged: Vec::new(),
        };
        let line = json_line(&outcome);
        let read = parse_line(&line).expect("our own line");
        assert_eq!(json_line(&read), line);
        let table = markdown(&[read]);
        let mut columns = table.lines().map(|line| line.matches('|').count());
        let first = columns.next();
        assert!(columns.all(|count| Some(count) == first), "{table}");
        assert!(
            table.contains("| 98.7 % | 1 | 97.5 % | 0 | 12.0 s | not within 60 s |"),
            "{table}"
        );
    }
}
