//! Names of networks: `eip155:<id>` in version 2, a fixed list of words in version 1.

/// Names of version 1 of the protocol.
const V1: &[(&str, u64)] = &[
    ("ethereum", 1),
    ("sepolia", 11_155_111),
    ("base", 8_453),
    ("base-sepolia", 84_532),
    ("abstract", 2_741),
    ("abstract-testnet", 11_124),
    ("avalanche", 43_114),
    ("avalanche-fuji", 43_113),
    ("iotex", 4_689),
    ("sei", 1_329),
    ("sei-testnet", 1_328),
    ("polygon", 137),
    ("polygon-amoy", 80_002),
    ("peaq", 3_338),
    ("story", 1_514),
    ("educhain", 41_923),
    ("skale-base-sepolia", 324_705_682),
    ("megaeth", 4_326),
    ("monad", 143),
    ("stable", 988),
    ("stable-testnet", 2_201),
    ("celo", 42_220),
    ("flare", 14),
];

/// The chain id of a network as a version of the protocol names it.
pub fn chain_id(version: u8, name: &str) -> Option<u64> {
    if version == 1 {
        return V1.iter().find(|(known, _)| *known == name).map(|(_, id)| *id);
    }
    let digits = name.strip_prefix("eip155:")?;
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok()).flatten()
}

/// The name of a chain in version 1, if it has one.
pub fn v1_name(chain_id: u64) -> Option<&'static str> {
    V1.iter().find(|(_, id)| *id == chain_id).map(|(name, _)| *name)
}

/// The name of a chain in version 2.
pub fn name(chain_id: u64) -> String {
    format!("eip155:{chain_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(chain_id(2, "eip155:8453"), Some(8453));
        assert_eq!(chain_id(1, "base"), Some(8453));
        for (version, bad) in [(2, "base"), (2, "eip155:"), (2, "eip155:0x1"), (2, "eip155:08453"), (1, "eip155:8453")]
        {
            assert_eq!(chain_id(version, bad), None, "{bad}");
        }
        assert_eq!(chain_id(2, "eip155:99999999999999999999999"), None);
        assert_eq!((v1_name(84_532), v1_name(31_337)), (Some("base-sepolia"), None));
        assert_eq!(chain_id(2, &name(10)), Some(10));
    }
}
