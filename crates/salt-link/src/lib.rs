//! I/O with Salt: publish and request sockets, sign-in, event bus, configuration.
