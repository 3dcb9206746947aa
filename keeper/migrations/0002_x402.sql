-- x402: payments that this keeper settles as a facilitator, and keys of one chain that send side by side.

-- Which key sends a transaction: '' for the keeper's own key of the chain, else the address of an x402 key (0x, lower case).
ALTER TABLE txs ADD COLUMN lane TEXT NOT NULL DEFAULT '';

-- One row for what a payer signed, whatever is asked for it and however often.
CREATE TABLE payments (
    -- EIP-712 digest of what was signed: authorization, permit or deposit authorization; for claim, settle and refund the
    -- digest of the action's content.
    payment_id       {BYTES} PRIMARY KEY,
    chain_id         BIGINT  NOT NULL,
    -- exact, upto, batch-settlement
    scheme           TEXT    NOT NULL,
    -- eip3009, permit2, deposit, claim, settle, refund
    method           TEXT    NOT NULL,
    -- 1 or 2
    x402_version     BIGINT  NOT NULL,
    -- NULL for claim and settle, which are of many payers.
    payer            {BYTES},
    receiver         {BYTES} NOT NULL,
    asset            {BYTES} NOT NULL,
    -- Token units, decimal text of a u256: what was signed, and what is charged.
    max_amount       TEXT    NOT NULL,
    amount           TEXT    NOT NULL,
    -- URL of what was paid for; NULL when the request names none.
    resource         TEXT,
    -- From the extension payment-identifier.
    identifier       TEXT,
    -- The facilitator request as it came (JSON).
    request          {BYTES} NOT NULL,
    -- What the payment was for, in units of the service (JSON); NULL until known.
    usage            TEXT,
    -- ABI encoding of the forwarder's Call[], the last of which moves the money.
    calls            {BYTES} NOT NULL,
    -- accepted, approving, queued, searching, settled, failed
    state            TEXT    NOT NULL,
    -- 1 once the transaction's block is final, and for what had none.
    final            BIGINT  NOT NULL DEFAULT 0,
    -- Why it failed: reason of the protocol, and a sentence.
    reason           TEXT,
    message          TEXT,
    -- Member `extra` of the answer (JSON); NULL for none.
    extra            TEXT,
    tx_id            BIGINT,
    tx_hash          {BYTES},
    block_number     BIGINT,
    block_hash       {BYTES},
    -- Of a payment that somebody else settled: place of its transfer among the logs of its block.
    log_index        BIGINT,
    -- Hash of the payer's own transaction that must be mined before it.
    approval         {BYTES},
    -- The completion that it paid for, and how sure that is: order, request, payer, window.
    settlement_id    {BYTES},
    joined           TEXT,
    -- Hash of the caller's API key.
    api_key          {BYTES},
    -- 0 while the catalogue is to get an entry of it, 1 then; NULL when its server declared nothing.
    listed           BIGINT,
    -- 1 once its usage is in the sums of its day, 0 before; NULL without usage.
    counted          BIGINT,
    created_ms       BIGINT  NOT NULL,
    updated_ms       BIGINT  NOT NULL,
    settled_ms       BIGINT
);
-- Which payment an identifier of a payer stands for (extension payment-identifier).
CREATE TABLE payment_identifiers (
    payer            {BYTES} NOT NULL,
    identifier       TEXT    NOT NULL,
    payment_id       {BYTES} NOT NULL,
    PRIMARY KEY (payer, identifier)
);
CREATE INDEX payments_to_send ON payments (chain_id, created_ms) WHERE state = 'accepted';
CREATE INDEX payments_to_approve ON payments (approval) WHERE state = 'approving';
CREATE INDEX payments_on_the_way ON payments (chain_id, tx_id) WHERE state = 'queued';
CREATE INDEX payments_not_final ON payments (chain_id, tx_id) WHERE state IN ('settled', 'failed') AND final = 0;
CREATE INDEX payments_to_find ON payments (chain_id, created_ms) WHERE state = 'searching';
CREATE UNIQUE INDEX payments_found ON payments (tx_hash, log_index) WHERE log_index IS NOT NULL;
CREATE INDEX payments_found_not_final ON payments (chain_id) WHERE log_index IS NOT NULL AND final = 0;
CREATE INDEX payments_to_join ON payments (receiver, settled_ms) WHERE state = 'settled' AND settlement_id IS NULL;
CREATE INDEX payments_by_settlement ON payments (settlement_id) WHERE settlement_id IS NOT NULL;
CREATE INDEX payments_by_payer ON payments (payer, settled_ms) WHERE settled_ms IS NOT NULL;
CREATE INDEX payments_by_time ON payments (settled_ms, payment_id) WHERE settled_ms IS NOT NULL;
CREATE INDEX payments_to_list ON payments (chain_id, payment_id) WHERE listed = 0 AND state = 'settled' AND tx_hash IS NOT NULL;

-- Gas money that was spent for payers: for permits that went along with payments, and for approvals.
CREATE TABLE sponsored (
    -- Payment id of a permit; hash of the payer's transaction of an approval.
    sponsored_id     {BYTES} PRIMARY KEY,
    chain_id         BIGINT  NOT NULL,
    payer            {BYTES} NOT NULL,
    -- What it costs at most.
    wei              BIGINT  NOT NULL,
    -- The payer's signed transaction and its nonce; NULL for a permit.
    raw              {BYTES},
    nonce            BIGINT,
    -- The transaction that brings the gas money; NULL when the payer has enough.
    tx_id            BIGINT,
    -- funding, sending, done, failed
    state            TEXT    NOT NULL,
    created_ms       BIGINT  NOT NULL,
    updated_ms       BIGINT  NOT NULL
);
CREATE INDEX sponsored_by_time ON sponsored (chain_id, created_ms);
CREATE INDEX sponsored_open ON sponsored (chain_id, created_ms) WHERE state IN ('funding', 'sending');

-- One row for each chain on which gas money is given: who adds to its sums holds it.
CREATE TABLE sponsors (
    chain_id         BIGINT  PRIMARY KEY,
    updated_ms       BIGINT  NOT NULL
);

-- Catalogue of resources that were paid for (extension bazaar): nothing in it is of one request.
CREATE TABLE resources (
    -- Hash of URL, kind and method or tool.
    resource_id      {BYTES} PRIMARY KEY,
    -- Without query and fragment; the route's template where it has one.
    url              TEXT    NOT NULL,
    -- http, mcp
    kind             TEXT    NOT NULL,
    -- What its server says of it (JSON).
    details          TEXT    NOT NULL,
    -- Settled payments for it.
    payments         BIGINT  NOT NULL,
    created_ms       BIGINT  NOT NULL,
    -- When it was paid for last.
    updated_ms       BIGINT  NOT NULL
);
CREATE INDEX resources_by_time ON resources (updated_ms, resource_id);

-- Ways to pay for them that were used.
CREATE TABLE resource_terms (
    resource_id      {BYTES} NOT NULL,
    -- Hash of scheme, network, token and receiver.
    terms_id         {BYTES} NOT NULL,
    scheme           TEXT    NOT NULL,
    network          TEXT    NOT NULL,
    pay_to           {BYTES} NOT NULL,
    -- PaymentRequirements (JSON).
    requirements     TEXT    NOT NULL,
    updated_ms       BIGINT  NOT NULL,
    PRIMARY KEY (resource_id, terms_id)
);

CREATE INDEX payments_to_count ON payments (chain_id) WHERE counted = 0 AND state = 'settled' AND final = 1;
CREATE INDEX payments_not_counted ON payments (settled_ms) WHERE counted = 0 AND state = 'settled';
-- Use of a day (UTC) by API key: sums of final payments.
CREATE TABLE usage_days (
    -- Days since 1970.
    day              BIGINT  NOT NULL,
    -- Hash; empty for payments without one.
    api_key          {BYTES} NOT NULL,
    -- As gateways report it (JSON).
    usage            TEXT    NOT NULL,
    PRIMARY KEY (day, api_key)
);
