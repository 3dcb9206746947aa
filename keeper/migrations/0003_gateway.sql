-- OpenGradient's gateways: nodes of its registry, what they hand in without naming a payment, and their heartbeats.

-- Nodes of OpenGradient's TEE registry. Their keys are kept for good: a node that is disabled later has signed before.
CREATE TABLE tees (
    tee_id           {BYTES} PRIMARY KEY,
    -- DER SubjectPublicKeyInfo.
    public_key       {BYTES} NOT NULL,
    payment_address  {BYTES} NOT NULL,
    -- 1 while the registry lists it as enabled.
    enabled          BIGINT  NOT NULL,
    created_ms       BIGINT  NOT NULL
);

-- Completions that came over /settle_data, and what is known of who paid for them.
CREATE TABLE handed_in (
    settlement_id    {BYTES} PRIMARY KEY,
    -- batch, individual
    kind             TEXT    NOT NULL,
    -- Whom the gateway names as payer: nobody signed that. NULL when it names none, or a contract that only moves tokens.
    payer            {BYTES},
    -- Hash of the gateway's API key.
    api_key          {BYTES},
    -- How sure it is who paid: order (matched), request (an open order asks for it), payer, window; NULL while nobody is known.
    joined           TEXT,
    order_id         {BYTES},
    payment_id       {BYTES},
    -- Payments that fit the last time we looked; more than one is none.
    candidates       BIGINT  NOT NULL DEFAULT 0,
    looks            BIGINT  NOT NULL DEFAULT 0,
    -- When to look for a payment next; NULL: no more.
    next_ms          BIGINT,
    created_ms       BIGINT  NOT NULL
);
CREATE INDEX handed_in_to_join ON handed_in (next_ms) WHERE next_ms IS NOT NULL;
CREATE INDEX handed_in_by_payment ON handed_in (payment_id) WHERE payment_id IS NOT NULL;
CREATE INDEX handed_in_unpaid ON handed_in (created_ms) WHERE joined IS NULL;

-- Heartbeats that were taken, each with the transaction that does its work.
CREATE TABLE heartbeats (
    tee_id           {BYTES} NOT NULL,
    -- The node's own, unix seconds.
    timestamp        BIGINT  NOT NULL,
    tx_id            BIGINT  NOT NULL,
    created_ms       BIGINT  NOT NULL,
    PRIMARY KEY (tee_id, timestamp)
);
CREATE INDEX heartbeats_by_tx ON heartbeats (tx_id);
