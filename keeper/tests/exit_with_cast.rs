//! A payer leaves the system with an RPC URL and `cast` alone: no keeper, no program of ours.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::providers::Provider;
use quittance::devnet::chains::{Chains, find_tool};
use quittance::devnet::deploy::{USDC, deploy, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::periods::Periods;

const ORDER: &str = "(address,address,uint128,bytes32,bytes32,bytes32,uint40,uint40,uint40,uint256)";
const ZERO: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";

struct Cast {
    program: PathBuf,
    rpc: String,
}

impl Cast {
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program).args(args).args(["--rpc-url", &self.rpc]).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn send(&self, key: &Key, args: &[&str]) -> Result<String, String> {
        let secret = key.hex();
        self.run(&[&["send", "--private-key", &secret], args].concat())
    }

    /// First word of a view's answer as a number.
    fn number(&self, to: &str, signature: &str, args: &[&str]) -> u128 {
        let said = self.run(&[&["call", to, signature], args].concat()).unwrap();
        said.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn withdraw_reclaim_and_unlock_need_nothing_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let chains = Chains::start(dir.path(), 1).await.unwrap();
    let (deployment, _) = deploy(&chains, Periods::default(), &[], "http://127.0.0.1:1").await.unwrap();
    let (payer, stranger) = (Key::of("payer-0").unwrap(), Key::of("stranger").unwrap());
    fund(&chains, payer.address()).await.unwrap();
    fund(&chains, stranger.address()).await.unwrap();
    let cast = Cast { program: find_tool("cast").expect("cast"), rpc: chains.base.url.clone() };
    let (usdc, escrow) = (USDC.to_string(), deployment.network.base.escrow.to_string());
    let (owner, keeper) = (payer.address().to_string(), deployment.network.keeper.id.to_string());
    let now = || async { chains.base.provider().get_block(BlockId::latest()).await.unwrap().unwrap().header.timestamp };

    cast.send(&payer, &[&usdc, "mint(address,uint256)", &owner, "1000000"]).unwrap();
    cast.send(&payer, &[&usdc, "approve(address,uint256)", &escrow, "1000000"]).unwrap();
    cast.send(&payer, &[&escrow, "deposit(address,address,uint256)", &usdc, &owner, "1000000"]).unwrap();
    assert_eq!(cast.number(&usdc, "balanceOf(address)(uint256)", &[&owner]), 0);

    let until = (now().await + 8).to_string();
    let lock = format!("({owner},{usdc},{keeper},300000,{until},0)");
    let signature = "lock((address,address,bytes32,uint128,uint40,uint256),bytes)";
    cast.send(&payer, &[&escrow, signature, &lock, "0x"]).unwrap();
    let start = now().await;
    let deadline = start + 14;
    let order = format!("({owner},{usdc},200000,{ZERO},{ZERO},{keeper},{start},{deadline},{deadline},7)");
    cast.send(&payer, &[&escrow, &format!("openOrder({ORDER},bytes)"), &order, "0x"]).unwrap();

    // What is free goes at once, whatever is locked or held.
    let free = cast.number(&escrow, "account(address,address)(uint128,uint128)", &[&owner, &usdc]);
    assert_eq!(free, 500_000);
    cast.send(&payer, &[&escrow, "withdraw(address,address,uint128)", &usdc, &owner, "500000"]).unwrap();
    let unlock = [escrow.as_str(), "unlock(address,address,bytes32)", &owner, &usdc, &keeper];
    assert!(cast.send(&payer, &unlock).is_err(), "the lock runs");
    let reclaim = format!("reclaim({ORDER})");
    assert!(cast.send(&payer, &[&escrow, &reclaim, &order]).is_err(), "the order can still be captured");

    while now().await <= deadline {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Anyone may bring the money back to its owner.
    cast.send(&stranger, &unlock).unwrap();
    cast.send(&stranger, &[&escrow, &reclaim, &order]).unwrap();
    cast.send(&payer, &[&escrow, "withdraw(address,address,uint128)", &usdc, &owner, "500000"]).unwrap();
    assert_eq!(cast.number(&usdc, "balanceOf(address)(uint256)", &[&owner]), 1_000_000);
    assert_eq!(cast.number(&usdc, "balanceOf(address)(uint256)", &[&escrow]), 0);
}
