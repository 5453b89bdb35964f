//! The table of records: `records (id, at_ms, crc, body)`, read and written inside a transaction.

use rusqlite::{Connection, OptionalExtension};

use crate::{
    crc,
    key::{Key, signed, unsigned},
};

/// A record as it stands in the table.
pub(crate) struct Stored<'a> {
    pub(crate) key: Key,
    pub(crate) at_ms: u64,
    pub(crate) body: &'a [u8],
}

impl<'a> Stored<'a> {
    /// The record of a row with the columns `id, at_ms, crc, body`; `None` when its checksum does not hold.
    pub(crate) fn of(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<Option<Self>> {
        let (id, at_ms, crc): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let rusqlite::types::ValueRef::Blob(body) = row.get_ref(3)? else {
            return Ok(None);
        };
        let holds = id > 0 && i64::from(crc::of_record(id, at_ms, body)) == crc;
        Ok(holds.then(|| Self {
            key: Key::from_row(id),
            at_ms: unsigned(at_ms),
            body,
        }))
    }
}

/// Writes a record; one of the same key is replaced.
pub(crate) fn put(db: &Connection, key: Key, at_ms: u64, body: &[u8]) -> rusqlite::Result<()> {
    let at_ms = signed(at_ms);
    let crc = crc::of_record(key.row(), at_ms, body);
    db.prepare_cached(
        "INSERT OR REPLACE INTO records (id, at_ms, crc, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((key.row(), at_ms, crc, body))?;
    Ok(())
}

/// A record that has been taken out of its row.
pub(crate) struct Found {
    pub(crate) at_ms: u64,
    pub(crate) body: Vec<u8>,
    /// The checksum holds; the body is empty where it does not.
    pub(crate) holds: bool,
}

/// The record of this key.
pub(crate) fn get(db: &Connection, key: Key) -> rusqlite::Result<Option<Found>> {
    let mut select = db.prepare_cached("SELECT id, at_ms, crc, body FROM records WHERE id = ?1")?;
    select
        .query_row([key.row()], |row| {
            let found = Stored::of(row)?;
            Ok(Found {
                holds: found.is_some(),
                at_ms: found.as_ref().map_or(0, |stored| stored.at_ms),
                body: found.map_or_else(Vec::new, |stored| stored.body.to_vec()),
            })
        })
        .optional()
}

/// The keys of a track behind number `after`, at most `limit`, each with its time and the length of its body.
pub(crate) fn keys(
    db: &Connection,
    track: u16,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Listed>> {
    let mut select = db.prepare_cached(
        "SELECT id, at_ms, length(body) FROM records WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?;
    let end = (i64::from(track) + 1) << 48;
    let end = if end < 0 { i64::MAX } else { end };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map((Key::new(track, after).row(), end, limit), |row| {
        Ok(Listed {
            key: Key::from_row(row.get(0)?),
            at_ms: unsigned(row.get(1)?),
            bytes: unsigned(row.get(2)?),
        })
    })?;
    rows.collect()
}

/// A record without its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    pub(crate) key: Key,
    pub(crate) at_ms: u64,
    pub(crate) bytes: u64,
}

/// Removes a record; the length of its body, if it was there.
pub(crate) fn remove(db: &Connection, key: Key) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("DELETE FROM records WHERE id = ?1 RETURNING length(body)")?
        .query_row([key.row()], |row| Ok(unsigned(row.get(0)?)))
        .optional()
}
