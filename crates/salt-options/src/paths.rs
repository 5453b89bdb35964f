//! Salt's rules for paths: `os.path.normpath`, `salt.utils.path.join`, `prepend_root_dir`.

use std::path::{Path, PathBuf};

/// Normalises as Python's `os.path.normpath`: no empty, `.` or `x/..` parts.
pub fn normpath(path: &str) -> String {
    // POSIX gives exactly two leading slashes a meaning of their own, which Python keeps.
    let double = path.starts_with("//") && !path.starts_with("///");
    let root = if double {
        "//"
    } else if path.starts_with('/') {
        "/"
    } else {
        ""
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part != ".." || (root.is_empty() && parts.last().is_none_or(|last| *last == "..")) {
            parts.push(part);
        } else {
            parts.pop();
        }
    }
    let joined = format!("{root}{}", parts.join("/"));
    if joined.is_empty() {
        ".".to_owned()
    } else {
        joined
    }
}

/// `path` below `base`, or itself when it is absolute: Python's `os.path.join`.
pub fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') || base.is_empty() {
        path.to_owned()
    } else if base.ends_with('/') {
        format!("{base}{path}")
    } else {
        format!("{base}/{path}")
    }
}

/// `root_dir` made absolute and normal.
pub fn root(root_dir: &str) -> String {
    let absolute = std::path::absolute(root_dir).unwrap_or_else(|_| PathBuf::from(root_dir));
    normpath(&absolute.to_string_lossy())
}

/// `path` below the `root` that [`root`] made, unless it already is.
pub fn prepend_root(root: &str, path: &str) -> PathBuf {
    let inside = (path == root).then_some("").or_else(|| {
        let rest = path.strip_prefix(root)?;
        rest.starts_with('/').then_some(rest)
    });
    let rest = normpath(inside.filter(|rest| !rest.is_empty()).unwrap_or(path));
    PathBuf::from(normpath(&join(root, rest.trim_start_matches('/'))))
}

/// Salt moves the sockets when their path is much longer than the cache's, because a socket's
/// path is bounded.
pub fn sock_dir(sock_dir: &str, cachedir: &str) -> String {
    if sock_dir.chars().count() > cachedir.chars().count() + 10 {
        join(cachedir, ".salt-unix")
    } else {
        sock_dir.to_owned()
    }
}

/// `path` as text, which every path here was made from.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal_as_in_python() {
        let check = |path: &str, expected: &str| assert_eq!(normpath(path), expected, "{path}");
        check("/a//b/./c/../d/", "/a/b/d");
        check("/..", "/");
        check("a/../..", "..");
        check("", ".");
        check("//a", "//a");
        check("///a", "/a");
    }

    #[test]
    fn the_root_comes_before_what_is_not_below_it() {
        let check = |root: &str, path: &str, expected: &str| {
            assert_eq!(
                prepend_root(root, path),
                Path::new(expected),
                "{root} {path}"
            );
        };
        check("/", "/etc/salt/pki", "/etc/salt/pki");
        check("/", "pki", "/pki");
        check("/srv/x", "/etc/salt/pki", "/srv/x/etc/salt/pki");
        check("/srv/x", "/srv/x/pki", "/srv/x/pki");
        check("/srv/x", "/srv/xy/pki", "/srv/x/srv/xy/pki");
        check("/srv/x", "pki", "/srv/x/pki");
        check("/srv/x", "/a/../b/", "/srv/x/b");
    }

    #[test]
    fn long_socket_paths_move_below_the_cache() {
        assert_eq!(
            sock_dir("/var/run/salt/master", "/var/cache/salt/master"),
            "/var/run/salt/master"
        );
        assert_eq!(
            sock_dir("/a/very/long/path/to/sockets", "/c"),
            "/c/.salt-unix"
        );
    }
}
