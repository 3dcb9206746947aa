//! Two local chains as child processes: Base (8453) and OpenGradient (10740).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::network::Ethereum;
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use serde_json::Value;

use crate::error::{Error, Result};

/// Chain id of Base.
pub const BASE: u64 = 8453;
/// Chain id of OpenGradient.
pub const OPENGRADIENT: u64 = 10_740;

/// For a program to start and open its port on a machine that is busy with other things.
const START: Duration = Duration::from_secs(60);

/// One chain; the process ends with this value.
#[derive(Debug)]
pub struct Anvil {
    child: Child,
    /// HTTP RPC.
    pub url: String,
    pub chain_id: u64,
    provider: DynProvider,
    dir: PathBuf,
    kind: Kind,
}

/// What makes one chain differ from another.
#[derive(Clone, Debug)]
struct Kind {
    name: &'static str,
    chain_id: u64,
    hardfork: &'static str,
    /// A transaction's gas is capped as on Ethereum (EIP-7825).
    capped: bool,
    /// `safe` is so many blocks behind, `finalized` twice as many.
    depth: u64,
    /// RPC of the chain that it goes on from.
    fork: Option<String>,
}

impl Anvil {
    async fn start(dir: &Path, kind: Kind, again: bool) -> Result<Self> {
        let state = dir.join(format!("{}.state", kind.name));
        let log = dir.join(format!("{}.log", kind.name));
        let out = File::create(&log)?;
        let program = find_anvil()?;
        let mut command = Command::new(&program);
        command
            // A block a second as on Base.
            .args(["--host", "127.0.0.1", "--port", "0", "--block-time", "1"])
            .args(["--slots-in-an-epoch", &kind.depth.to_string()])
            .args(["--chain-id", &kind.chain_id.to_string(), "--hardfork", kind.hardfork])
            .args(["--accounts", "0", "--gas-limit", "240000000", "--preserve-historical-states"])
            .arg("--dump-state")
            .arg(&state);
        if kind.capped {
            command.arg("--enable-tx-gas-limit");
        }
        if let Some(url) = &kind.fork {
            command.args(["--fork-url", url]);
        }
        if again {
            command.arg("--load-state").arg(&state);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| Error::Config(format!("cannot start {}: {error}", program.display())))?;
        let mut chain = Self {
            child,
            url: String::new(),
            chain_id: kind.chain_id,
            provider: provider("http://127.0.0.1:1")?,
            dir: dir.to_owned(),
            kind,
        };
        chain.url = chain.listening(&log).await?;
        chain.provider = provider(&chain.url)?;
        Ok(chain)
    }

    /// Stops the chain and starts it again from what it had: same blocks, another port, an empty pool.
    ///
    /// # Errors
    /// `io_failed`, `bad_configuration` when it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        // An orderly end writes the state.
        Command::new("kill").arg("-INT").arg(self.pid().to_string()).status()?;
        self.child.wait()?;
        *self = Self::start(&self.dir.clone(), self.kind.clone(), true).await?;
        Ok(())
    }

    /// Waits until the log names the port: choosing one ourselves would race with others.
    async fn listening(&mut self, log: &Path) -> Result<String> {
        let deadline = tokio::time::Instant::now() + START;
        loop {
            let text = std::fs::read_to_string(log)?;
            if let Some(line) = text.lines().find_map(|line| line.strip_prefix("Listening on ")) {
                return Ok(format!("http://{}", line.trim()));
            }
            if self.child.try_wait()?.is_some() || tokio::time::Instant::now() > deadline {
                return Err(Error::Config(format!("anvil did not start: {}", text.trim())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection without wallet or fillers.
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// A call beyond the standard, such as `anvil_setBalance`.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn call(&self, method: &'static str, params: Value) -> Result<Value> {
        self.provider
            .raw_request(method.into(), params)
            .await
            .map_err(|error| Error::Rpc { chain_id: self.chain_id, message: format!("{method}: {error}") })
    }

    /// Stops making blocks: what is sent from now on stays unmined.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn pause(&self) -> Result<()> {
        self.call("evm_setIntervalMining", serde_json::json!([0])).await.map(drop)
    }

    /// Makes a block a second again.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn resume(&self) -> Result<()> {
        self.call("evm_setIntervalMining", serde_json::json!([1])).await.map(drop)
    }

    /// Whether it goes on from another chain, whose contracts are there.
    pub const fn is_fork(&self) -> bool {
        self.kind.fork.is_some()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // Nothing to do about a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both chains.
#[derive(Debug)]
pub struct Chains {
    pub base: Anvil,
    pub opengradient: Anvil,
}

impl Chains {
    /// Starts both on free ports; logs go to `dir`. `safe` is `depth` blocks behind, `finalized` twice as many.
    ///
    /// # Errors
    /// `bad_configuration` when anvil is missing or does not start.
    pub async fn start(dir: &Path, depth: u64) -> Result<Self> {
        Self::start_from(dir, depth, None).await
    }

    /// As `start`; with `fork`, the RPC of a chain with Base's id, Base goes on from that chain's head.
    ///
    /// # Errors
    /// As `start`; `bad_configuration` when `fork` does not answer or is another chain.
    pub async fn start_from(dir: &Path, depth: u64, fork: Option<&str>) -> Result<Self> {
        if let Some(url) = fork {
            // The URL may hold a key: it is not told.
            let id = provider(url)?.get_chain_id().await;
            let id = id.map_err(|error| Error::Config(format!("the RPC to fork from does not answer: {error}")))?;
            if id != BASE {
                let text = format!("the RPC to fork from is of chain {id}: name one of Base ({BASE})");
                return Err(Error::Config(text));
            }
        }
        let fork = fork.map(str::to_owned);
        let base = Kind { name: "base", chain_id: BASE, hardfork: "osaka", capped: true, depth, fork };
        let opengradient =
            Kind { name: "opengradient", chain_id: OPENGRADIENT, hardfork: "prague", capped: false, depth, fork: None };
        let (base, opengradient) = (Anvil::start(dir, base, false), Anvil::start(dir, opengradient, false));
        let (base, opengradient) = tokio::try_join!(base, opengradient)?;
        Ok(Self { base, opengradient })
    }
}

/// A connection without wallet or fillers to any HTTP RPC.
///
/// # Errors
/// `bad_configuration` for text that is no URL.
pub fn provider(url: &str) -> Result<DynProvider> {
    let url = url.parse().map_err(|error| Error::Config(format!("RPC URL {url:?}: {error}")))?;
    let provider = ProviderBuilder::new().disable_recommended_fillers().network::<Ethereum>().connect_http(url);
    Ok(provider.erased())
}

/// anvil: `$ANVIL`, then the pinned npm package above the working directory or the program, then `$PATH`.
fn find_anvil() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ANVIL") {
        return Ok(path.into());
    }
    find_tool("anvil")
        .ok_or_else(|| Error::Config("anvil not found: run `script/setup` in the repository, or set ANVIL".to_owned()))
}

/// A Foundry tool: the pinned npm package above the working directory or the program, then `$PATH`.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let places = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let pinned = places.iter().flatten().flat_map(|place| place.ancestors()).find_map(|dir| {
        // The package's own binary: its JavaScript wrapper would leave the chain running when it is killed.
        let entries = std::fs::read_dir(dir.join("node_modules/@foundry-rs")).ok()?;
        let prefix = format!("{name}-");
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path().join("bin").join(name))
            .find(|path| path.is_file())
    });
    pinned.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::eips::BlockNumberOrTag;

    #[tokio::test]
    async fn chains_make_blocks_until_paused_and_finality_follows() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let chains = Chains::start(dir.path(), 1).await?;
        let base = &chains.base;
        let id = base.provider().get_chain_id().await.unwrap();
        assert_eq!(id, BASE);
        assert_eq!(chains.opengradient.provider().get_chain_id().await.unwrap(), OPENGRADIENT);
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        base.pause().await?;
        let latest = base.provider().get_block_number().await.unwrap();
        assert!(latest >= 3, "{latest}");
        let number =
            |tag| async move { base.provider().get_block_by_number(tag).await.unwrap().unwrap().header.number };
        assert_eq!(number(BlockNumberOrTag::Safe).await, latest - 1);
        assert_eq!(number(BlockNumberOrTag::Finalized).await, latest - 2);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(base.provider().get_block_number().await.unwrap(), latest);
        base.resume().await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(base.provider().get_block_number().await.unwrap() > latest);
        Ok(())
    }
}
