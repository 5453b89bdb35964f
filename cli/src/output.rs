//! Standard output: how wide, whether in colours, whether for programs.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde_json::Value;

use crate::paint::{Tone, paint};
use crate::table::Table;

/// Width where there is no terminal to ask.
const WIDTH_DEFAULT: usize = 80;

/// Narrower than this nothing is legible: lines are then left to the terminal.
const WIDTH_MIN: usize = 40;

/// Standard output, and what is known of it.
#[derive(Debug)]
pub(crate) struct Output {
    to: BufWriter<Stdout>,
    /// Columns of a line.
    pub(crate) width: usize,
    /// Whether colours are wanted: on a terminal, unless `NO_COLOR` says otherwise.
    pub(crate) colours: bool,
    /// Whether a person looks at it live.
    pub(crate) terminal: bool,
    /// Whether a program reads it.
    pub(crate) json: bool,
}

impl Output {
    /// Standard output as it is.
    pub(crate) fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        // https://no-color.org: set and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            to: BufWriter::new(io::stdout()),
            width: width().max(WIDTH_MIN),
            colours: terminal && !refused && !dumb,
            terminal: terminal && !dumb,
            json,
        }
    }

    /// One line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{text}")
    }

    /// Text as it is, such as the codes that move the cursor.
    pub(crate) fn raw(&mut self, text: &str) -> io::Result<()> {
        write!(self.to, "{text}")
    }

    /// The bridge's answer, for programs.
    pub(crate) fn json(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.to, "{value:#}")
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) -> io::Result<()> {
        for line in table.lines(self.width, self.colours) {
            self.line(&line)?;
        }
        Ok(())
    }

    /// `text` in its tone.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colours)
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn width() -> usize {
    let asked = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    let seen = || {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    seen().or(asked).unwrap_or(WIDTH_DEFAULT)
}
