//! What a transaction offers, and what a replacement must offer: pure arithmetic, in wei per gas.

/// EIP-1559 fees, wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fee {
    pub max_fee: u128,
    pub tip: u128,
}

/// What the configuration allows, wei per gas.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_fee: u128,
    pub min_tip: u128,
}

/// What the chain asks for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Market {
    /// Base fee of the next block.
    pub base_fee: u128,
    /// Tip that recent blocks took.
    pub tip: u128,
}

impl Market {
    /// From the tips of recent blocks: their median, but at least what the configuration says.
    pub fn new(base_fee: u128, mut tips: Vec<u128>, limits: Limits) -> Self {
        tips.sort_unstable();
        let median = tips.get(tips.len() / 2).copied().unwrap_or(0);
        Self { base_fee, tip: median.max(limits.min_tip) }
    }

    /// Whether a transaction with this fee would be taken into the next block.
    pub const fn takes(&self, fee: Fee) -> bool {
        fee.max_fee >= self.base_fee.saturating_add(self.tip) && fee.tip >= self.tip
    }

    /// Fee of a new transaction: room for the base fee to double, never above the cap. `None` while even the next block costs
    /// more than the cap.
    pub fn offer(&self, limits: Limits) -> Option<Fee> {
        let least = self.base_fee.checked_add(self.tip)?;
        if least > limits.max_fee {
            return None;
        }
        let roomy = self.base_fee.saturating_mul(2).saturating_add(self.tip);
        Some(Fee { max_fee: roomy.min(limits.max_fee), tip: self.tip })
    }

    /// Fee of a replacement: at least an eighth above the old one in both fields (nodes ask for a tenth) and at least what a
    /// new transaction would offer. `None` when that is above the cap: then the old one stays.
    pub fn replace(&self, old: Fee, limits: Limits) -> Option<Fee> {
        let wanted = self.offer(limits).unwrap_or(Fee { max_fee: 0, tip: 0 });
        let tip = raised(old.tip)?.max(wanted.tip);
        let max_fee = raised(old.max_fee)?.max(wanted.max_fee).max(tip);
        (max_fee <= limits.max_fee).then_some(Fee { max_fee, tip })
    }
}

/// ceil(old × 9/8), and at least one more.
fn raised(old: u128) -> Option<u128> {
    old.checked_add(old.div_ceil(8).max(1))
}

/// Gas that a batch surely does not exceed, by the length of its call: rows of 13 words that spend a lock and a nonce word for
/// the first time cost 51,000 each (`script/gas`), nodes that are credited for the first time are in the margin. `None` for
/// transactions whose gas says nothing about their length, and for batches that may need more than one transaction can have.
pub fn gas_bound(kind: &str, calldata: usize) -> Option<u64> {
    const ROW_BYTES: usize = 13 * 32;
    let rows = u64::try_from(calldata / ROW_BYTES).ok()?;
    let bound = 350_000 + 54_000 * rows;
    (kind == "settle_batch").then_some(bound).filter(|bound| *bound <= super::MAX_GAS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn replacements_rise_enough_and_never_pass_the_cap(
            max_fee in 0..u64::MAX, tip in 0..u64::MAX, base_fee in 0..u64::MAX, asked in 0..u64::MAX, cap in 0..u64::MAX,
        ) {
            let old = Fee { max_fee: max_fee.into(), tip: u128::from(tip).min(max_fee.into()) };
            let limits = Limits { max_fee: cap.into(), min_tip: 1 };
            let market = Market::new(base_fee.into(), vec![asked.into()], limits);
            match market.replace(old, limits) {
                Some(new) => {
                    prop_assert!(new.max_fee <= limits.max_fee);
                    prop_assert!(new.tip <= new.max_fee);
                    prop_assert!(new.max_fee * 8 >= old.max_fee * 9 && new.tip * 8 >= old.tip * 9, "at least +12.5 %");
                    prop_assert!(new.max_fee > old.max_fee && new.tip > old.tip);
                    if let Some(offer) = market.offer(limits) {
                        prop_assert!(new.max_fee >= offer.max_fee && new.tip >= offer.tip);
                    }
                }
                None => {
                    let least = (old.max_fee * 9).div_ceil(8).max((old.tip * 9).div_ceil(8)).max(old.max_fee + 1);
                    prop_assert!(least > limits.max_fee || market.tip > limits.max_fee || old.tip + 1 > limits.max_fee);
                }
            }
        }

        #[test]
        fn offers_fit_the_market_or_wait(base_fee in 0..u64::MAX, asked in 0..u64::MAX, cap in 0..u64::MAX) {
            let limits = Limits { max_fee: cap.into(), min_tip: 7 };
            let market = Market::new(base_fee.into(), vec![asked.into()], limits);
            match market.offer(limits) {
                Some(fee) => {
                    prop_assert!(market.takes(fee));
                    prop_assert!(fee.max_fee <= limits.max_fee && fee.tip >= limits.min_tip && fee.tip <= fee.max_fee);
                }
                None => prop_assert!(market.base_fee + market.tip > limits.max_fee),
            }
        }
    }

    #[test]
    fn tips_are_the_median() {
        let limits = Limits { max_fee: 1_000, min_tip: 2 };
        assert_eq!(Market::new(10, vec![9, 1, 5], limits).tip, 5);
        assert_eq!(Market::new(10, vec![], limits).tip, 2);
        assert_eq!(Market::new(10, vec![0, 0, 900], limits).tip, 2, "one rich block does not count");
        assert_eq!(
            Market { base_fee: 10, tip: 2 }.replace(Fee { max_fee: 1, tip: 0 }, limits),
            Some(Fee { max_fee: 22, tip: 2 })
        );
        assert_eq!(
            Market { base_fee: 10, tip: 2 }.replace(Fee { max_fee: 900, tip: 2 }, limits),
            None,
            "1,013 is too much"
        );
    }

    #[test]
    fn batches_have_a_bound_and_nothing_else_has() {
        assert_eq!(gas_bound("settle_batch", 500), Some(404_000));
        // The largest batch that there is: 256 rows of 64 nodes, 13,204,406 gas.
        assert_eq!(gas_bound("settle_batch", 111_162), Some(14_768_000));
        assert_eq!(gas_bound("deliver", 500), None);
        assert_eq!(gas_bound("settle_batch", 1_000_000), None);
    }
}
