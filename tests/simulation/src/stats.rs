//! What a run counts, and what many runs add up to.

/// What is not an error, but worth counting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs that the top master published.
    pub jobs: u64,
    /// First runs at a site.
    pub delivered: u64,
    /// Reported expired.
    pub expired: u64,
    /// Run twice by a minion that was restarted in between: on two lower masters, the first of which
    /// died before its position was held.
    pub twice_two_lowers: u64,
    /// The same: the first request was still on its way when the second was judged.
    pub twice_on_the_way: u64,
    /// The same: the job cache could not be read.
    pub twice_unreadable: u64,
    /// Run although reported expired: a stopped lower master carried out later what it was sent in time.
    pub ran_late: u64,
    /// Pairs run in the other order, because the epoch of the first ended and it was appended again.
    pub order_excused: u64,
    /// Ages that were guessed wrongly, since the clock that counts was never heard.
    pub misjudged_excused: u64,
    /// Moments at which two shims believed to be active, after a primary that was cut off came back as it was.
    pub two_active_excused: u64,
    /// Publishes that a minion's own queue dropped.
    pub repeated: u64,
    /// Opened by no key that the site has.
    pub unopenable: u64,
    /// Returns filed by the top master.
    pub returns: u64,
    /// Copies of returns beyond the first.
    pub copies: u64,
    /// Publications that serials tell to be lost.
    pub gaps: u64,
    /// Never journaled by any bridge.
    pub unheard: u64,
}

impl Stats {
    /// Adds what another run counted.
    pub const fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.delivered += other.delivered;
        self.expired += other.expired;
        self.twice_two_lowers += other.twice_two_lowers;
        self.twice_on_the_way += other.twice_on_the_way;
        self.twice_unreadable += other.twice_unreadable;
        self.ran_late += other.ran_late;
        self.order_excused += other.order_excused;
        self.misjudged_excused += other.misjudged_excused;
        self.two_active_excused += other.two_active_excused;
        self.repeated += other.repeated;
        self.unopenable += other.unopenable;
        self.returns += other.returns;
        self.copies += other.copies;
        self.gaps += other.gaps;
        self.unheard += other.unheard;
    }
}
