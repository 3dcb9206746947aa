//! Room for connections: so many in all, so many of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::caller::within;
use crate::config::limits::Limits;

/// Files that the process needs for everything else: database, chains, nodes.
const OTHER_FILES: u32 = 256;

/// Connections that are open.
#[derive(Debug)]
pub struct Connections {
    by_ip: Mutex<ByIp>,
    capacity: u32,
    per_ip: u32,
    /// Networks without a limit per address.
    exempt: Vec<IpNet>,
}

#[derive(Debug, Default)]
struct ByIp {
    all: u32,
    counts: HashMap<IpAddr, u32>,
}

/// What there is no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    Ip,
}

impl Full {
    /// In metrics and error bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "connections",
            Self::Ip => "connections_per_ip",
        }
    }
}

/// Room for one connection until it is dropped.
#[derive(Debug)]
pub struct Place {
    all: Arc<Connections>,
    ip: IpAddr,
}

impl Connections {
    /// No connection yet. Where the process may open fewer files than `limits.connections`, there is room for fewer.
    pub fn new(limits: &Limits) -> Self {
        let files = open_files().map(|files| files.saturating_sub(OTHER_FILES).max(files / 2));
        let capacity = limits.connections.min(files.unwrap_or(u32::MAX)).max(1);
        if capacity < limits.connections {
            tracing::warn!(capacity, wanted = limits.connections, "fewer connections: raise the limit of open files");
        }
        let exempt = [&limits.exempt[..], &limits.trusted_proxies[..]].concat();
        Self { by_ip: Mutex::default(), capacity, per_ip: limits.connections_per_ip, exempt }
    }

    /// Takes a place for a connection of `ip`.
    ///
    /// # Errors
    /// What is full.
    pub fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Place, Full> {
        let ip = ip.to_canonical();
        let mut open = self.lock();
        if open.all >= self.capacity {
            return Err(Full::All);
        }
        let exempt = within(&self.exempt, ip);
        let count = open.counts.entry(ip).or_default();
        if *count >= self.per_ip && !exempt {
            return Err(Full::Ip);
        }
        *count += 1;
        open.all += 1;
        Ok(Place { all: self.clone(), ip })
    }

    /// How many are open.
    pub fn open(&self) -> u32 {
        self.lock().all
    }

    /// How many there is room for.
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    fn lock(&self) -> MutexGuard<'_, ByIp> {
        self.by_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        open.all = open.all.saturating_sub(1);
        if let Some(count) = open.counts.get_mut(&self.ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.counts.remove(&self.ip);
            }
        }
    }
}

/// How many files the process may open; `None` where the system does not tell.
fn open_files() -> Option<u32> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(connections: u32, connections_per_ip: u32) -> Arc<Connections> {
        let limits = Limits { connections, connections_per_ip, ..Limits::default() };
        Arc::new(Connections::new(&limits))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_takes_its_share_and_all_take_no_more_than_there_is() {
        let room = room(5, 2);
        let mut first: Vec<Place> = (0..2).map(|_| room.admit(ip("198.51.100.1")).unwrap()).collect();
        assert_eq!(room.admit(ip("198.51.100.1")).unwrap_err(), Full::Ip);
        assert_eq!(room.admit(ip("::ffff:198.51.100.1")).unwrap_err(), Full::Ip, "the same address in IPv6 clothes");
        let exempt: Vec<Place> = (0..3).map(|_| room.admit(ip("127.0.0.1")).unwrap()).collect();
        assert_eq!(room.admit(ip("198.51.100.2")).unwrap_err(), Full::All);
        assert_eq!(room.open(), 5);
        first.pop();
        let _second = room.admit(ip("198.51.100.2")).unwrap();
        assert_eq!(room.admit(ip("198.51.100.1")).unwrap_err(), Full::All);
        drop(exempt);
        let _third = room.admit(ip("198.51.100.1")).unwrap();
        assert_eq!(room.open(), 3);
    }

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let room = room(5, 2);
        drop(room.admit(ip("198.51.100.1")).unwrap());
        let refused = (room.admit(ip("198.51.100.2")), room.admit(ip("198.51.100.2")), room.admit(ip("198.51.100.2")));
        assert!(refused.2.is_err());
        drop(refused);
        assert!(room.lock().counts.is_empty());
    }
}
