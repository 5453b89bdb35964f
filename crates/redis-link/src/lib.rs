//! I/O with Redis: append, subscribe, read, requests and replies.
