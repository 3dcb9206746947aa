//! A keeper that could not do its work does not start, and says why.

use std::time::Duration;

use alloy::primitives::{Address, B256};
use quittance::config::Config;

use crate::harness::{Keeper, Net};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_cannot_work_refuses_to_start_and_says_why() {
    let net = Net::up().await;
    let good = &net.devnet.config;
    let changed = |change: fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let cases: [(&str, Config); 10] = [
        (
            "preflight base_chain_id",
            changed(|config| {
                config.base.chain_id = 1;
                // It takes its endpoints from Base, which has another number now.
                config.x402.networks.clear();
            }),
        ),
        ("preflight og_chain_id", changed(|config| config.opengradient.chain_id = 1)),
        ("preflight base_code", changed(|config| config.base.ledger = Address::repeat_byte(0x77))),
        ("preflight base_wiring", changed(|config| config.base.escrow = config.base.node_registry)),
        ("preflight hot_key", changed(|config| config.keeper.id = B256::repeat_byte(0x77))),
        ("preflight base_gas", changed(|config| config.base.key = config.keeper.receipt_key.clone())),
        ("preflight x402_code", changed(|config| config.x402.networks[0].forwarder = Address::repeat_byte(0x77))),
        // A key that the forwarder does not know, and one without gas.
        (
            "preflight x402_keys",
            changed(|config| config.x402.networks[0].keys = vec![config.keeper.receipt_key.clone()]),
        ),
        (
            "preflight x402_gas",
            changed(|config| config.x402.networks[0].keys = vec![config.keeper.receipt_key.clone()]),
        ),
        ("bad_configuration", changed(|config| config.batch.max_rows = 257)),
    ];
    for (reason, config) in cases {
        let _ = std::fs::remove_file(net.devnet.dir.join("keeper.log"));
        let mut keeper = Keeper::start_with(&net, &config, None);
        let status = keeper.ended(Duration::from_secs(30)).await;
        let log = net.log_tail();
        assert!(status.is_some_and(|status| !status.success()), "{reason}: it must not run\n{log}");
        let reason = reason.trim_start_matches("preflight ");
        assert!(log.contains(reason), "{reason} is not named in\n{log}");
    }
}
