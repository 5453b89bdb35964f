//! The ledger of a running bridge, with a real Redis, a stand-in MoM's event bus, and sites played by the test.

mod api;
mod audit;
mod bridges;
mod jobs;
mod load;
mod receipts;
mod stage;
