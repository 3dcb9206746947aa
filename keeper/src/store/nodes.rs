//! Nodes, their versions and our hot keys, as the registries on Base have them; endpoints as OpenGradient's has them.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::events::{self, column, number};
use crate::chain::logs::{Contract, Event, KeepersEvents, NodesEvents, decode};
use crate::error::{Error, Result};
use crate::registry::{Label, NodeRecord, NodeVersion};
use crate::types::{address, b256};

/// The node that an event is about.
const fn node_of(event: &NodesEvents) -> Option<B256> {
    Some(match event {
        NodesEvents::NodeRegistered(e) => e.nodeId,
        NodesEvents::VersionAdded(e) => e.nodeId,
        NodesEvents::OperatorProposed(e) => e.nodeId,
        NodesEvents::OperatorSet(e) => e.nodeId,
        NodesEvents::OwnerSet(e) => e.nodeId,
        NodesEvents::PayoutSet(e) => e.nodeId,
        NodesEvents::NodeRetired(e) => e.nodeId,
        NodesEvents::NodeRestored(e) => e.nodeId,
        NodesEvents::NodeRevoked(e) => e.nodeId,
        _ => return None,
    })
}

const fn label_of(number: u8) -> Label {
    match number {
        3 => Label::Attested,
        2 => Label::Mirrored,
        _ => Label::Declared,
    }
}

/// Applies an event to a node's record; `timestamp` is the block's, unix seconds.
pub fn fold(record: &mut Option<NodeRecord>, event: &NodesEvents, timestamp: u64) {
    let Some(id) = node_of(event) else { return };
    let node = record.get_or_insert_with(|| NodeRecord {
        id,
        version: 0,
        label: Label::Declared,
        operator: Address::ZERO,
        payout: Address::ZERO,
        registered_at: timestamp,
        retired_at: 0,
        revoked_at: 0,
        endpoint: None,
        versions: BTreeMap::new(),
    });
    match event {
        NodesEvents::NodeRegistered(e) => {
            node.label = label_of(e.label);
            node.operator = e.operator;
            node.payout = e.payout;
            node.registered_at = timestamp;
        }
        NodesEvents::VersionAdded(e) => {
            if let Some(old) = node.versions.get_mut(&node.version) {
                old.replaced_at = timestamp;
            }
            node.version = e.version;
            node.label = label_of(e.label);
            node.versions.insert(
                e.version,
                NodeVersion {
                    number: e.version,
                    verifier: e.verifier,
                    meter_key: e.meterKey,
                    label: label_of(e.label),
                    created_at: timestamp,
                    replaced_at: 0,
                    public_key: e.key.to_vec(),
                    key: None,
                },
            );
        }
        NodesEvents::OperatorSet(e) => node.operator = e.operator,
        NodesEvents::PayoutSet(e) => node.payout = e.payout,
        NodesEvents::NodeRetired(e) => node.retired_at = e.since.to(),
        NodesEvents::NodeRestored(_) => node.retired_at = 0,
        NodesEvents::NodeRevoked(e) => node.revoked_at = e.since.to(),
        _ => {}
    }
}

/// Applies an event to the stored node.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn apply(tx: &mut WriteTx, event: &NodesEvents, timestamp: u64) -> Result<()> {
    let Some(id) = node_of(event) else { return Ok(()) };
    let mut record = get(tx, id).await?;
    fold(&mut record, event, timestamp);
    replace(tx, id, record.as_ref()).await
}

async fn get(tx: &mut WriteTx, id: B256) -> Result<Option<NodeRecord>> {
    let row = sqlx::query("SELECT * FROM nodes WHERE node_id = $1").bind(id.to_vec()).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(None) };
    let mut node = read_node(&row)?;
    for row in
        sqlx::query("SELECT * FROM node_versions WHERE node_id = $1").bind(id.to_vec()).fetch_all(&mut **tx).await?
    {
        let version = read_version(&row)?;
        node.versions.insert(version.number, version);
    }
    Ok(Some(node))
}

/// Writes a node as given, or removes it; the endpoint that OpenGradient's registry names stays.
///
/// # Errors
/// `store_failed`.
pub async fn replace(tx: &mut WriteTx, id: B256, record: Option<&NodeRecord>) -> Result<()> {
    let newest = record.map_or(0, |record| record.version);
    sqlx::query("DELETE FROM node_versions WHERE node_id = $1 AND version > $2")
        .bind(id.to_vec())
        .bind(i64::from(newest))
        .execute(&mut **tx)
        .await?;
    let Some(record) = record else {
        sqlx::query("DELETE FROM nodes WHERE node_id = $1").bind(id.to_vec()).execute(&mut **tx).await?;
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO nodes (node_id, version, label, operator, payout, registered_at, retired_at, revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (node_id) DO UPDATE SET version = excluded.version, label = excluded.label, operator = excluded.operator,
         payout = excluded.payout, registered_at = excluded.registered_at, retired_at = excluded.retired_at,
         revoked_at = excluded.revoked_at",
    )
    .bind(id.to_vec())
    .bind(i64::from(record.version))
    .bind(record.label.as_str())
    .bind(record.operator.to_vec())
    .bind(record.payout.to_vec())
    .bind(column(record.registered_at)?)
    .bind(column(record.retired_at)?)
    .bind(column(record.revoked_at)?)
    .execute(&mut **tx)
    .await?;
    for version in record.versions.values() {
        sqlx::query(
            "INSERT INTO node_versions (node_id, version, verifier, meter_key, label, created_at, replaced_at, public_key)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (node_id, version) DO UPDATE SET verifier = excluded.verifier, meter_key = excluded.meter_key,
             label = excluded.label, created_at = excluded.created_at, replaced_at = excluded.replaced_at,
             public_key = excluded.public_key",
        )
        .bind(id.to_vec())
        .bind(i64::from(version.number))
        .bind(version.verifier.to_vec())
        .bind(version.meter_key.to_vec())
        .bind(version.label.as_str())
        .bind(column(version.created_at)?)
        .bind(column(version.replaced_at)?)
        .bind(version.public_key.clone())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// All nodes with their versions; keys are not parsed.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn all(pool: &sqlx::AnyPool) -> Result<BTreeMap<B256, NodeRecord>> {
    let mut nodes = BTreeMap::new();
    for row in sqlx::query("SELECT * FROM nodes").fetch_all(pool).await? {
        let node = read_node(&row)?;
        nodes.insert(node.id, node);
    }
    for row in sqlx::query("SELECT * FROM node_versions").fetch_all(pool).await? {
        let id = b256("node_versions", &row.try_get::<Vec<u8>, _>("node_id")?)?;
        let version = read_version(&row)?;
        if let Some(node) = nodes.get_mut(&id) {
            node.versions.insert(version.number, version);
        }
    }
    Ok(nodes)
}

/// Notes where OpenGradient's registry says to reach a node.
///
/// # Errors
/// `store_failed`.
pub async fn set_endpoint(tx: &mut WriteTx, id: B256, endpoint: Option<&str>) -> Result<bool> {
    let done =
        sqlx::query("UPDATE nodes SET endpoint = $1 WHERE node_id = $2 AND COALESCE(endpoint, '') <> COALESCE($1, '')")
            .bind(endpoint.map(str::to_owned))
            .bind(id.to_vec())
            .execute(&mut **tx)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Hot keys of a keeper: those that its registry's events leave allowed.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn hot_keys<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    registry: Address,
    keeper_id: B256,
) -> Result<BTreeSet<Address>> {
    let mut keys = BTreeSet::new();
    for event in events::of_contract(db, chain_id, registry, keeper_id).await? {
        let decoded = decode(Contract::Keepers, &event.topics, &event.data)
            .map_err(|what| Error::Corrupt { table: "events", what })?;
        if let Some((_, _, Event::Keepers(event))) = decoded
            && let KeepersEvents::HotKeySet(e) = *event
        {
            if e.allowed {
                keys.insert(e.key);
            } else {
                keys.remove(&e.key);
            }
        }
    }
    Ok(keys)
}

fn read_node(row: &AnyRow) -> Result<NodeRecord> {
    const T: &str = "nodes";
    Ok(NodeRecord {
        id: b256(T, &row.try_get::<Vec<u8>, _>("node_id")?)?,
        version: version_number(row)?,
        label: label(row)?,
        operator: address(T, &row.try_get::<Vec<u8>, _>("operator")?)?,
        payout: address(T, &row.try_get::<Vec<u8>, _>("payout")?)?,
        registered_at: number(row, "registered_at")?,
        retired_at: number(row, "retired_at")?,
        revoked_at: number(row, "revoked_at")?,
        endpoint: row.try_get("endpoint")?,
        versions: BTreeMap::new(),
    })
}

fn read_version(row: &AnyRow) -> Result<NodeVersion> {
    const T: &str = "node_versions";
    Ok(NodeVersion {
        number: version_number(row)?,
        verifier: address(T, &row.try_get::<Vec<u8>, _>("verifier")?)?,
        meter_key: address(T, &row.try_get::<Vec<u8>, _>("meter_key")?)?,
        label: label(row)?,
        created_at: number(row, "created_at")?,
        replaced_at: number(row, "replaced_at")?,
        public_key: row.try_get("public_key")?,
        key: None,
    })
}

fn version_number(row: &AnyRow) -> Result<u32> {
    let value: i64 = row.try_get("version")?;
    u32::try_from(value).map_err(|_| Error::Corrupt { table: "nodes", what: format!("version {value}") })
}

fn label(row: &AnyRow) -> Result<Label> {
    let text: String = row.try_get("label")?;
    Label::parse(&text).ok_or_else(|| Error::Corrupt { table: "nodes", what: format!("label {text:?}") })
}
