//! Which addresses a request may go to: the endpoints of the pools, narrowed by the gateway's subset hint.
//!
//! Which pods are endpoints is decided in Python, which hands them over.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::wire::MetadataValue;

/// Namespace of the dynamic metadata with the subset hint.
pub const SUBSET_NAMESPACE: &[u8] = b"envoy.lb.subset_hint";
/// Its key there.
pub const SUBSET_KEY: &str = "x-gateway-destination-endpoint-subset";

/// Entries of a subset hint that are looked at: more than any pool has pods.
const MAX_SUBSET: usize = 10_000;

/// An IP address in whatever spelling, IPv6 with its scope.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Host {
    address: IpAddr,
    scope: String,
}

impl Host {
    /// The address in a text; none when it is none. IPv6 may come in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('[').unwrap_or(text);
        let text = text.strip_suffix(']').unwrap_or(text);
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self { address: IpAddr::V4(address), scope: String::new() });
        }
        let (bare, scope) = match text.split_once('%') {
            None => (text, ""),
            Some((_, scope)) if scope.is_empty() || scope.contains(['%', '/']) => return None,
            Some(parts) => parts,
        };
        let address = bare.parse::<Ipv6Addr>().ok()?;
        Some(Self { address: IpAddr::V6(address), scope: scope.to_owned() })
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let between = if self.scope.is_empty() { "" } else { "%" };
        write!(out, "{}{between}{}", self.address, self.scope)
    }
}

/// One address of one pod. `ready_since` is Unix time, 0 when not known. `draining`: about to go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    pub address: Arc<str>,
    /// None for what is no address, which no hint allows.
    pub host: Option<Host>,
    pub port: u32,
    pub pod: Arc<str>,
    pub pool: Arc<str>,
    pub ready_since: f64,
    pub draining: bool,
}

/// Addresses that a gateway allows: hosts with a port, and hosts with every port.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Subset {
    pairs: HashSet<(Host, u32)>,
    hosts: HashSet<Host>,
}

impl Subset {
    /// Hosts with a port, and hosts with every port, in words.
    pub fn parts(&self) -> (Vec<(String, u32)>, Vec<String>) {
        let pairs = self.pairs.iter().map(|(host, port)| (host.to_string(), *port));
        (pairs.collect(), self.hosts.iter().map(Host::to_string).collect())
    }

    /// Whether the endpoint is one of them.
    pub fn allows(&self, endpoint: &Endpoint) -> bool {
        endpoint.host.as_ref().is_some_and(|host| {
            self.hosts.contains(host) || (!self.pairs.is_empty() && self.pairs.contains(&(host.clone(), endpoint.port)))
        })
    }
}

/// The hint as a list, one string or a comma-separated string; none when there is no hint.
///
/// Entries that are no address match nothing: a hint is a restriction, and a typo must not lift it.
pub fn parse_subset(value: Option<&MetadataValue>) -> Option<Subset> {
    let mut subset = Subset::default();
    match value? {
        MetadataValue::Null => return None,
        MetadataValue::Text(text) => text.split(',').take(MAX_SUBSET).for_each(|part| subset.add(part)),
        MetadataValue::List(entries) => {
            for entry in entries.iter().take(MAX_SUBSET) {
                if let MetadataValue::Text(text) = entry {
                    text.split(',').for_each(|part| subset.add(part));
                }
            }
        }
        _ => (),
    }
    Some(subset)
}

impl Subset {
    fn add(&mut self, part: &str) {
        // What Python's strip() takes off: Unicode's white space and the four separators of ASCII.
        let text = part.trim_matches(|char: char| char.is_whitespace() || ('\x1c'..='\x1f').contains(&char));
        if let Some(host) = Host::parse(text) {
            self.hosts.insert(host);
            return;
        }
        let Some((host, port)) = text.rsplit_once(':') else { return };
        if port.is_empty() || port.len() > 5 || !port.bytes().all(|digit| digit.is_ascii_digit()) {
            return;
        }
        if let (Some(host), Ok(port @ 1..)) = (Host::parse(host), port.parse()) {
            self.pairs.insert((host, port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_equal_in_every_spelling() {
        assert_eq!(Host::parse("[fd00::1]"), Host::parse("FD00:0:0:0:0:0:0:1"));
        assert_eq!(Host::parse("::ffff:1.2.3.4"), Host::parse("::ffff:102:304"));
        assert_ne!(Host::parse("fe80::1%eth0"), Host::parse("fe80::1"));
        for wrong in ["", "1.2.3", "01.2.3.4", "fe80::1%", "fe80::1%a%b", "::1/64", "10.0.0.1:80"] {
            assert_eq!(Host::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hint_that_is_no_list_allows_nothing() {
        assert_eq!(parse_subset(None), None);
        assert_eq!(parse_subset(Some(&MetadataValue::Bool(true))), Some(Subset::default()));
        let hint = parse_subset(Some(&MetadataValue::Text("10.0.0.1:80, [::1]:0,x".into()))).unwrap();
        assert_eq!((hint.pairs.len(), hint.hosts.len()), (1, 0));
    }
}
