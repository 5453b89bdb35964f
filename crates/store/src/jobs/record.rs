//! The bodies of job records.

use crate::codec::{Reader, Writer};

use super::{Begin, Done, OpenJob, PartKey};

/// What a begun part's record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) key: PartKey,
    pub(super) frame: [u8; 16],
    pub(super) upstream: u64,
}

pub(super) fn write_begun(part: &Begin) -> Vec<u8> {
    let mut writer = Writer::default();
    writer
        .bytes(part.key.jid.as_bytes())
        .bytes(&part.key.part)
        .bytes(&part.frame)
        .number(part.upstream.into())
        .number(part.entry.0)
        .number(part.entry.1);
    writer.take()
}

pub(super) fn read_begun(body: &[u8]) -> Option<Begun> {
    let mut reader = Reader::new(body);
    Some(Begun {
        key: PartKey {
            jid: reader.text()?.to_owned(),
            part: reader.bytes()?.try_into().ok()?,
        },
        frame: reader.bytes()?.try_into().ok()?,
        upstream: reader.number()?,
    })
}

/// What a done part's record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DonePart {
    pub(super) key: PartKey,
    pub(super) frame: [u8; 16],
    /// With every minion missing, and no time: the record knows it.
    pub(super) job: OpenJob,
}

pub(super) fn write_done(part: &Done, begun: &Begun) -> Vec<u8> {
    let mut writer = Writer::default();
    writer
        .bytes(part.key.jid.as_bytes())
        .bytes(&part.key.part)
        .bytes(&begun.frame)
        .number(begun.upstream)
        .bytes(part.fun.as_bytes())
        .number(part.answers_for_site.into())
        .texts(part.minions.iter().map(String::as_str));
    writer.take()
}

/// The part and the frame of a done part, without its minions.
pub(super) fn read_done_key(body: &[u8]) -> Option<(PartKey, [u8; 16])> {
    // They stand where they stand in a begun part.
    read_begun(body).map(|begun| (begun.key, begun.frame))
}

pub(super) fn read_done(body: &[u8]) -> Option<DonePart> {
    let mut reader = Reader::new(body);
    let jid = reader.text()?.to_owned();
    let part = reader.bytes()?.try_into().ok()?;
    let frame = reader.bytes()?.try_into().ok()?;
    let upstream = u32::try_from(reader.number()?).ok()?;
    let fun = reader.text()?.to_owned();
    let answers_for_site = reader.number()? != 0;
    let minions = reader.texts()?.into_iter().map(str::to_owned).collect();
    let job = OpenJob {
        jid: jid.clone(),
        upstream,
        fun,
        answers_for_site,
        minions,
        missing: Vec::new(),
        at_ms: 0,
    };
    Some(DonePart {
        key: PartKey { jid, part },
        frame,
        job,
    })
}

/// Returns in a row of the same job share its jid.
pub(super) fn write_returned(returns: &[(String, String)]) -> Vec<u8> {
    let mut writer = Writer::default();
    for of_job in returns.chunk_by(|(one, _), (other, _)| one == other) {
        writer.bytes(of_job[0].0.as_bytes());
        writer.texts(of_job.iter().map(|(_, minion)| minion.as_str()));
    }
    writer.take()
}

/// Calls `each` with the jid and the minion of every return.
pub(super) fn read_returned(body: &[u8], mut each: impl FnMut(&str, &str)) -> Option<()> {
    let mut reader = Reader::new(body);
    while !reader.is_empty() {
        let jid = reader.text()?;
        for minion in reader.texts()? {
            each(jid, minion);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let key = PartKey {
            jid: "20261121140122123456".into(),
            part: [7; 16],
        };
        let begin = Begin {
            key: key.clone(),
            frame: [9; 16],
            upstream: 3,
            entry: (1_700_000_000_000, 5),
            at_ms: 1,
        };
        let begun = read_begun(&write_begun(&begin)).unwrap();
        assert_eq!(
            (&begun.key, begun.frame, begun.upstream),
            (&key, [9; 16], 3)
        );
        let done = Done {
            key: key.clone(),
            fun: "test.ping".into(),
            minions: vec!["web1".into(), "web2".into()],
            answers_for_site: true,
        };
        let body = write_done(&done, &begun);
        assert_eq!(read_done_key(&body), Some((key.clone(), [9; 16])));
        let read = read_done(&body).unwrap();
        assert_eq!((read.key, read.frame), (key, [9; 16]));
        assert_eq!((read.job.fun, read.job.minions), (done.fun, done.minions));
        assert!(read.job.answers_for_site && read.job.upstream == 3);
        for length in 0..body.len() {
            assert_eq!(read_done(&body[..length]), None);
        }
    }

    #[test]
    fn returns_keep_their_jobs() {
        let returns = ["a web1", "a web2", "b web1", "a web3"].map(|both| {
            let (jid, minion) = both.split_once(' ').unwrap();
            (jid.to_owned(), minion.to_owned())
        });
        let mut read = Vec::new();
        let body = write_returned(&returns);
        read_returned(&body, |jid, minion| {
            read.push((jid.to_owned(), minion.to_owned()))
        })
        .unwrap();
        assert_eq!(read, returns);
    }
}
