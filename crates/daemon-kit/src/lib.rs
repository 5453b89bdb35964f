//! The frame of every daemon: configuration, signals, tasks, tracing, metrics and health.
