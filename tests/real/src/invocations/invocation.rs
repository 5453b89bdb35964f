//! A `salt` command line, and what is expected of it besides that all masters print the same.

/// How the command prints, which says how its output is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// `--out=json`: one document for each return, so that a return that is printed twice shows.
    Json,
    /// `--out=json --static`: one document for all returns.
    StaticJson,
    /// `--out=txt`: lines that begin with the minion's id.
    Text,
    /// Salt's default for the function: a block of lines below each minion's id.
    Blocks,
}

impl Form {
    /// The options that make `salt` print so.
    #[must_use]
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["--out=json"],
            Self::StaticJson => &["--out=json", "--static"],
            Self::Text => &["--out=txt"],
            Self::Blocks => &["--no-color"],
        }
    }
}

/// Whether the sites answer under their own ids on the top master.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sites {
    /// Each says that all its minions returned.
    Complete,
    /// Each answers; what it says belongs to the function (`saltutil.find_job`).
    Answer,
    /// Each says that none of its minions is missing in the part of a batch that it belongs to.
    InParts,
    /// The target does not mean them.
    Silent,
}

/// One command line for all masters.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub(crate) args: Vec<String>,
    pub(crate) at_sites: Option<Vec<String>>,
    pub(crate) form: Form,
    pub(crate) sites: Sites,
    pub(crate) alone: bool,
}

impl Invocation {
    /// `salt <form's options> <args>`, whose target is `*` or means the sites' own ids in another way.
    #[must_use]
    pub fn new(form: Form, args: &[&str]) -> Self {
        Self {
            args: owned(args),
            at_sites: None,
            form,
            sites: Sites::Complete,
            alone: false,
        }
    }

    /// Its target does not mean the sites' own ids.
    #[must_use]
    pub fn of_minions_only(mut self) -> Self {
        self.sites = Sites::Silent;
        self
    }

    /// The sites answer as the function asks, and not by a summary.
    #[must_use]
    pub fn answered_in_kind(mut self) -> Self {
        self.sites = Sites::Answer;
        self
    }

    /// It goes out in parts, and the sites' own ids are each in one of them.
    #[must_use]
    pub fn in_parts(mut self) -> Self {
        self.sites = Sites::InParts;
        self
    }

    /// It must not run twice at the same time: a minion refuses a second `state.apply`, and `saltutil.running` would show the others.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// On the sites' own masters these words are typed instead, which mean the same.
    #[must_use]
    pub fn at_sites(mut self, args: &[&str]) -> Self {
        self.at_sites = Some(owned(args));
        self
    }

    /// The words for the top master.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.with_options(&self.args)
    }

    /// The words for a site's own master.
    pub(crate) fn site_words(&self) -> Vec<&str> {
        self.with_options(self.at_sites.as_ref().unwrap_or(&self.args))
    }

    fn with_options<'a>(&self, args: &'a [String]) -> Vec<&'a str> {
        let args = args.iter().map(String::as_str);
        self.form.options().iter().copied().chain(args).collect()
    }
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|&word| word.to_owned()).collect()
}
