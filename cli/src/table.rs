//! Tables that fit the terminal.
//!
//! - A table is never wider than the width it is given: the columns that may go go first, those
//!   of the least rank; then the ones that may shrink are cut, the widest first, with an ellipsis.
//! - A cell that nothing may cut (a jid) stays whole: somebody wants to copy it.

use crate::paint::{Tone, clean, paint};

/// Between two columns.
const GAP: usize = 2;

/// What a cut cell ends in.
const ELLIPSIS: char = '…';

/// A column and how it gives way.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    name: &'static str,
    right: bool,
    /// The least width; `None` keeps it whole.
    shrinks_to: Option<usize>,
    /// Dropped when there is no room, the smallest first; `None` stays.
    rank: Option<u8>,
}

impl Column {
    /// Words, whole.
    pub(crate) fn left(name: &'static str) -> Self {
        Self {
            name,
            right: false,
            shrinks_to: None,
            rank: None,
        }
    }

    /// Figures, whole.
    pub(crate) fn right(name: &'static str) -> Self {
        Self {
            right: true,
            ..Self::left(name)
        }
    }

    /// Words that may be cut to `least`.
    pub(crate) fn shrinks(mut self, least: usize) -> Self {
        self.shrinks_to = Some(least);
        self
    }

    /// Goes where there is no room; the smallest `rank` first.
    pub(crate) fn optional(mut self, rank: u8) -> Self {
        self.rank = Some(rank);
        self
    }
}

/// One cell: its text and what it means.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Plain text.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Plain)
    }

    /// Text in a tone.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self {
            text: clean(text.as_ref()),
            tone,
        }
    }

    /// A state, in its own tone.
    pub(crate) fn state(word: &str) -> Self {
        Self::toned(word.replace('_', " "), Tone::of(word))
    }

    /// A figure that is bad unless it is 0.
    pub(crate) fn bad_unless_zero(count: u64) -> Self {
        let tone = if count == 0 { Tone::Faint } else { Tone::Bad };
        Self::toned(count.to_string(), tone)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Columns and rows.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row, with a cell per column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell per column");
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, none wider than `width` as far as what must stay whole allows it.
    pub(crate) fn lines(&self, width: usize, colours: bool) -> Vec<String> {
        let widths = self.widths(width);
        let heading = self
            .columns
            .iter()
            .map(|column| Cell::toned(column.name, Tone::Strong))
            .collect();
        std::iter::once(&heading)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths, colours))
            .collect()
    }

    /// The width of each column; `None` for those that had to go.
    fn widths(&self, width: usize) -> Vec<Option<usize>> {
        let natural = |index: usize, column: &Column| {
            self.rows
                .iter()
                .filter_map(|row| row.get(index))
                .map(Cell::width)
                .chain([column.name.chars().count()])
                .max()
                .unwrap_or_default()
        };
        let mut widths: Vec<Option<usize>> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| Some(natural(index, column)))
            .collect();
        while self.least(&widths) > width {
            let Some(index) = self.next_to_go(&widths) else {
                break;
            };
            widths[index] = None;
        }
        while total(&widths) > width {
            let Some(index) = self.next_to_shrink(&widths) else {
                break;
            };
            widths[index] = widths[index].map(|columns| columns - 1);
        }
        widths
    }

    /// The width when everything that may shrink has shrunk.
    fn least(&self, widths: &[Option<usize>]) -> usize {
        let shrunk: Vec<_> = widths
            .iter()
            .zip(&self.columns)
            .map(|(width, column)| {
                width.map(|width| column.shrinks_to.map_or(width, |least| width.min(least)))
            })
            .collect();
        total(&shrunk)
    }

    fn next_to_go(&self, widths: &[Option<usize>]) -> Option<usize> {
        let there = self
            .columns
            .iter()
            .enumerate()
            .filter(|(index, _)| widths[*index].is_some());
        there
            .filter_map(|(index, column)| Some((column.rank?, index)))
            .min()
            .map(|(_, index)| index)
    }

    fn next_to_shrink(&self, widths: &[Option<usize>]) -> Option<usize> {
        self.columns
            .iter()
            .enumerate()
            .filter_map(|(index, column)| {
                let width = widths[index]?;
                (width > column.shrinks_to?).then_some((width, index))
            })
            .max()
            .map(|(_, index)| index)
    }

    fn line(&self, row: &[Cell], widths: &[Option<usize>], colours: bool) -> String {
        let mut line = String::new();
        let shown = row.iter().zip(&self.columns).zip(widths);
        for (cell, column, width) in
            shown.filter_map(|((cell, column), width)| Some((cell, column, (*width)?)))
        {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let text = cut(&cell.text, width);
            let pad = " ".repeat(width.saturating_sub(text.chars().count()));
            let painted = paint(&text, cell.tone, colours);
            if column.right {
                line.push_str(&pad);
                line.push_str(&painted);
            } else {
                line.push_str(&painted);
                line.push_str(&pad);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let there: Vec<usize> = widths.iter().copied().flatten().collect();
    there.iter().sum::<usize>() + GAP * there.len().saturating_sub(1)
}

/// `text` in at most `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push(ELLIPSIS);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::left("JID"),
            Column::right("AGE").optional(1),
            Column::left("TARGET").shrinks(6),
        ]);
        table.row(vec![
            Cell::new("20261121173800110002"),
            Cell::new("3 min"),
            Cell::new("L@a-very-long-list,of-minions"),
        ]);
        table
    }

    #[test]
    fn wide_enough_it_is_whole() {
        assert_eq!(
            table().lines(80, false),
            [
                "JID                     AGE  TARGET",
                "20261121173800110002  3 min  L@a-very-long-list,of-minions"
            ]
        );
    }

    #[test]
    fn words_are_cut_before_columns_go() {
        assert_eq!(
            table().lines(40, false)[1],
            "20261121173800110002  3 min  L@a-very-l…"
        );
        assert_eq!(
            table().lines(30, false)[1],
            "20261121173800110002  L@a-ver…"
        );
    }

    #[test]
    fn what_must_stay_whole_does() {
        assert_eq!(table().lines(10, false)[1], "20261121173800110002  L@a-v…");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let plain = table().lines(40, false);
        let painted = table().lines(40, true);
        let bare = painted[0].replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert_eq!(bare.trim_end(), plain[0]);
    }
}
