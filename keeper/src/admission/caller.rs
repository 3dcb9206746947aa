//! Who calls: an API key that is known, else an address, behind trusted proxies too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, header};
use ipnet::IpNet;

use crate::config::limits::Limits;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::api_keys;

/// How long a key is taken for good without a look at the store: so long a revoked key may still act.
pub const KEY_TTL: Duration = Duration::from_secs(2);
/// Keys that are remembered.
const KEYS: usize = 1_024;

/// A caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its address; an unspecified one when the connection does not tell.
    pub ip: IpAddr,
    /// The key that it bears, if that is known and not revoked.
    pub key: Option<Key>,
}

/// A good API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub hash: B256,
    /// Separated by spaces.
    pub scopes: String,
}

impl Key {
    /// Whether it has a scope.
    pub fn has(&self, scope: &str) -> bool {
        self.scopes.split_ascii_whitespace().any(|one| one == scope)
    }
}

/// Keys that were good a moment ago.
#[derive(Debug, Default)]
pub struct Keys(Mutex<HashMap<B256, (Key, Instant)>>);

impl Keys {
    /// The key of a text, if it is a good one.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn find(&self, ctx: &Ctx, text: &str) -> Result<Option<Key>> {
        let hash = api_keys::hash(text);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if let Some((key, at)) = known.filter(|(_, at)| at.elapsed() < KEY_TTL) {
            let _ = at;
            return Ok(Some(key));
        }
        let found = api_keys::scopes(&ctx.store, hash).await?.map(|scopes| Key { hash, scopes });
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(key) => {
                if keys.len() >= KEYS {
                    keys.clear();
                }
                keys.insert(hash, (key.clone(), Instant::now()));
            }
            None => drop(keys.remove(&hash)),
        }
        Ok(found)
    }
}

/// Who calls.
///
/// # Errors
/// `store_failed`.
pub async fn caller(ctx: &Ctx, extensions: &Extensions, headers: &HeaderMap) -> Result<Caller> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    // Without a peer nobody is trusted and nobody is exempt.
    let ip = origin(peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), headers, &ctx.config.limits);
    let key = match bearer(headers) {
        Some(text) => ctx.admission.keys.find(ctx, text).await?,
        None => None,
    };
    Ok(Caller { ip, key })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Whether a network holds an address, IPv4 in IPv6 clothes included.
pub fn within(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// The last address on the way here that no trusted proxy vouches for: what comes before it anybody can write.
fn origin(peer: IpAddr, headers: &HeaderMap, limits: &Limits) -> IpAddr {
    let mut ip = peer.to_canonical();
    let mut way: Vec<&str> = Vec::new();
    for value in headers.get_all("x-forwarded-for") {
        way.extend(value.to_str().unwrap_or_default().split(','));
    }
    for hop in way.into_iter().rev() {
        if !within(&limits.trusted_proxies, ip) {
            break;
        }
        let hop = hop.trim();
        let parsed = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|hop| hop.ip()));
        let Ok(parsed) = parsed else { break };
        ip = parsed.to_canonical();
    }
    ip
}

/// What an address is counted as: IPv6 by its network of 64 bits, of which a customer has at least one.
pub fn subject(ip: IpAddr) -> B256 {
    let mut bytes = [0; 32];
    match ip.to_canonical() {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => {
            bytes[..8].copy_from_slice(&ip.octets()[..8]);
            bytes[31] = 6;
        }
    }
    B256::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let limits = Limits { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..Limits::default() };
        origin(peer.parse().unwrap(), &headers, &limits).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_saw_is_believed() {
        assert_eq!(from("203.0.113.9", &["1.1.1.1"]), "203.0.113.9", "a stranger writes what it likes");
        assert_eq!(from("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(from("127.0.0.1", &["1.1.1.1, 203.0.113.9"]), "203.0.113.9", "its own line does not help a caller");
        assert_eq!(from("127.0.0.1", &["1.1.1.1", "203.0.113.9, 127.0.0.2"]), "203.0.113.9");
        assert_eq!(from("::ffff:127.0.0.1", &["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(from("127.0.0.1", &["unknown"]), "127.0.0.1");
    }

    #[test]
    fn addresses_of_one_customer_are_one_subject() {
        let subject = |text: &str| subject(text.parse().unwrap());
        assert_eq!(subject("2001:db8:1:2::1"), subject("2001:db8:1:2:ffff::2"));
        assert_ne!(subject("2001:db8:1:2::1"), subject("2001:db8:1:3::1"));
        assert_eq!(subject("::ffff:10.0.0.1"), subject("10.0.0.1"));
        assert_ne!(subject("10.0.0.1"), subject("10.0.0.2"));
    }
}
