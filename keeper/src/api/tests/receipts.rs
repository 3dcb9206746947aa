//! Receipt files: what was changed is found, and settlement only adds to them.

use super::*;

#[tokio::test]
async fn a_changed_receipt_file_fails_the_check_of_what_was_changed() {
    let api = Api::new(&[good()]).await;
    let (_, answer) = api.submit(&api.order(1)).await;
    let whole = answer["receipt"].clone();
    let other = json!(B256::repeat_byte(1));
    for (pointer, value, check) in [
        ("/schema", json!("x"), "schema"),
        ("/settlementId", other.clone(), "settlement_id"),
        ("/receiptHash", other.clone(), "receipt_hash"),
        ("/receipt/amount", json!("1"), "meter_signature"),
        ("/receipt/nodeId", other.clone(), "node_id"),
        ("/receipt/outputHash", other.clone(), "settlement_id"),
        ("/receipt/timestamp", json!(1), "order_terms"),
        ("/receipt/salt", other.clone(), "meter_signature"),
        ("/node/signature", json!("0x00"), "inference_signature"),
        ("/order/fields/maxAmount", json!("5000"), "order_id"),
        ("/order/signature", Value::Null, "order_signature"),
        ("/meter/key", json!(ESCROW), "meter_signature"),
        ("/meter/usage/output", json!(10_000), "metering"),
        ("/base/transaction", other.clone(), "settlement"),
        ("/keeper/keeperId", other.clone(), "keeper_signature"),
    ] {
        let mut changed = whole.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let checks = offline(&serde_json::from_value(changed).unwrap());
        let failed: Vec<&str> = checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
        assert!(failed.contains(&check), "{pointer}: {failed:?}");
    }
}

#[tokio::test]
async fn a_settled_row_is_proven_in_the_same_file() {
    let api = Api::new(&[good()]).await;
    let mut ids = Vec::new();
    for nonce in 0..3 {
        let (_, answer) = api.submit(&api.order(nonce)).await;
        let before: ReceiptFile = serde_json::from_value(answer["receipt"].clone()).unwrap();
        ids.push(before);
    }
    evidence::tests::settle(&api.ctx.store, &ids.iter().map(|file| file.settlement_id).collect::<Vec<_>>()).await;
    for before in ids {
        let after = crate::receipt::assemble::file(&api.ctx, before.settlement_id).await.unwrap().unwrap();
        let checks = offline(&after);
        assert!(all_ok(&checks), "{checks:#?}");
        assert_eq!(after.state, "included");
        assert!(after.base.batch.is_some() && !after.awaits.contains_key("/base/transaction"));
        assert_eq!((&after.receipt, &after.keeper, &after.meter), (&before.receipt, &before.keeper, &before.meter));
        let mut changed = after.clone();
        let leaf = &mut changed.base.batch.as_mut().unwrap().leaf;
        leaf.row = (leaf.row + 1) % 3;
        assert!(!all_ok(&offline(&changed)), "another row");
        let mut changed = after;
        changed.base.batch.as_mut().unwrap().proof.clear();
        assert!(!all_ok(&offline(&changed)), "no proof");
    }
    let (status, batch) = api.get("/batches/7", None).await;
    assert_eq!((status, batch["leaves"].as_array().unwrap().len()), (200, 3), "{batch}");
}
