//! Tests of the whole relay with real Salt daemons, real Redis and the real `salt` command; see `tests/`.
