//! The id of a master or minion whose configuration does not state it, as `get_id` finds it.

use std::fs;
use std::path::Path;

use crate::options::Options;

/// Where an id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdSource {
    /// Option `id`.
    Configured,
    /// File `minion_id`, which the minion wrote at its first start.
    Cached,
    /// The host's name. Salt also asks DNS for it; when the two differ, state the id.
    Hostname,
}

/// Option `id`, else `<root_dir>/etc/salt/minion_id`, else the host's name.
pub fn id(options: &Options<'_>, root: &str) -> (String, IdSource) {
    if let Some(id) = options.optional_text("id") {
        return (append_domain(options, id), IdSource::Configured);
    }
    if options.bool("minion_id_caching", true)
        && let Some(id) = cached(&Path::new(root).join("etc/salt/minion_id"))
    {
        return (append_domain(options, id), IdSource::Cached);
    }
    if options.is_given("id_function") {
        options.mistake(
            "id_function",
            "is Python that only Salt can run",
            "state `id`",
        );
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut id = qualified(kernel.trim(), &hosts);
    if options.bool("minion_id_lowercase", false) {
        id = id.to_lowercase();
    }
    id = remove_domain(options, id);
    if id.parse::<std::net::Ipv4Addr>().is_err() {
        id = append_domain(options, id);
    }
    (id, IdSource::Hostname)
}

fn cached(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let id = text
        .trim_start_matches('\u{feff}')
        .lines()
        .next()
        .unwrap_or_default()
        .trim();
    (!id.is_empty() && id != "localhost").then(|| id.to_owned())
}

/// The name with its domain, from the line of `/etc/hosts` that names the host.
fn qualified(hostname: &str, hosts: &str) -> String {
    let names = |line: &'_ str| -> Vec<String> {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    let local = |name: &str| name.starts_with("localhost") || name.starts_with("ip6-");
    let line = hosts
        .lines()
        .map(names)
        .find(|names| names.iter().any(|name| name == hostname));
    let long = line
        .into_iter()
        .flatten()
        .find(|name| name.contains('.') && !local(name));
    match long {
        Some(long) if !hostname.contains('.') => long,
        _ if hostname.is_empty() || local(hostname) => "localhost".to_owned(),
        _ => hostname.to_owned(),
    }
}

fn append_domain(options: &Options<'_>, id: String) -> String {
    match options.optional_text("append_domain") {
        Some(domain) if !id.ends_with(&domain) && !id.ends_with('.') => format!("{id}.{domain}"),
        _ => id,
    }
}

fn remove_domain(options: &Options<'_>, id: String) -> String {
    if options.is_true("minion_id_remove_domain") {
        return id.split('.').next().unwrap_or_default().to_owned();
    }
    let Some(domain) = options.optional_text("minion_id_remove_domain") else {
        return id;
    };
    let suffix = format!(".{domain}").to_uppercase();
    match id.to_uppercase().strip_suffix(&suffix) {
        Some(rest) => id.chars().take(rest.chars().count()).collect(),
        None => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_completes_the_name() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1 web1.example.net web1 # the web\n";
        assert_eq!(qualified("web1", hosts), "web1.example.net");
        assert_eq!(qualified("web1.lan", hosts), "web1.lan");
        assert_eq!(qualified("web2", hosts), "web2");
        assert_eq!(qualified("", hosts), "localhost");
    }

    #[test]
    fn the_cached_id_is_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("minion_id");
        assert_eq!(cached(&file), None);
        fs::write(&file, "\u{feff}site-a \nrest\n").unwrap();
        assert_eq!(cached(&file).as_deref(), Some("site-a"));
        fs::write(&file, "localhost\n").unwrap();
        assert_eq!(cached(&file), None);
    }
}
