-- One schema text for SQLite and Postgres. {BYTES} is BLOB or BYTEA, {ID} an auto-incrementing 64-bit primary key.
-- Hashes, ids, addresses, nonces and signatures are bytes; amounts are decimal text of a u128; chain times are unix
-- seconds, local times (`*_ms`) unix milliseconds. The chain is the truth: rows that mirror it carry the block they came from.
-- Loops look only at what is still to be done, so their indexes hold only that: they stay small however much has been done,
-- and a row costs nothing in them once it is at its end. A query uses such an index when it repeats the index's condition.

-- Orders that we serve: opened on-chain, handed in over HTTP, or both.
CREATE TABLE orders (
    order_id         {BYTES} PRIMARY KEY,
    payer            {BYTES} NOT NULL,
    token            {BYTES} NOT NULL,
    max_amount       TEXT    NOT NULL,
    request_commit   {BYTES} NOT NULL,
    node_scope       {BYTES} NOT NULL,
    keeper_id        {BYTES} NOT NULL,
    valid_after      BIGINT  NOT NULL,
    valid_before     BIGINT  NOT NULL,
    capture_deadline BIGINT  NOT NULL,
    nonce            {BYTES} NOT NULL,
    -- Payer's 65-byte signature; NULL for an order only opened on-chain.
    signature        {BYTES},
    -- NULL until known; 32 zero bytes for a public order.
    blinding         {BYTES},
    request_hash     {BYTES},
    -- The request as handed in (JSON), erased when the order is terminal.
    request          {BYTES},
    -- open, dispatched, completed, settled, final, voided, expired, reclaimed, refused
    state            TEXT    NOT NULL,
    -- Stable error code of a refusal or of the last failed dispatch.
    reason           TEXT,
    -- 1 while the chain holds the maximum for this order.
    held             BIGINT  NOT NULL,
    -- What is reserved in the lane (lock or credit) for an order that is not held; decimal text, '0' if none.
    reserved         TEXT    NOT NULL,
    -- The last reclaim queued.
    reclaim_tx       BIGINT,
    attempts         BIGINT  NOT NULL,
    next_attempt_ms  BIGINT  NOT NULL,
    -- Installation that has it at a node, or keeps it for a caller that streams; while that one lives nobody else takes it
    -- before `next_attempt_ms`.
    owner            TEXT,
    created_ms       BIGINT  NOT NULL,
    updated_ms       BIGINT  NOT NULL
);
-- For counting by state, and written so that no other query takes it: an index on the state itself would look better to
-- SQLite than those below, and lead through every order that is in the state.
CREATE INDEX orders_by_state ON orders ((CAST(state AS TEXT)));
CREATE INDEX orders_to_dispatch ON orders (next_attempt_ms, created_ms) WHERE request IS NOT NULL AND state IN ('open', 'dispatched');
CREATE INDEX orders_by_deadline ON orders (capture_deadline) WHERE state IN ('open', 'dispatched', 'completed');
CREATE INDEX orders_to_reclaim ON orders (capture_deadline) WHERE held = 1 AND state IN ('expired', 'refused');
CREATE INDEX orders_to_erase ON orders (created_ms)
    WHERE request IS NOT NULL AND state IN ('final', 'voided', 'expired', 'reclaimed', 'refused');
CREATE INDEX orders_by_request ON orders (request_hash);
-- Not unique: a hold does not spend a nonce. Orders over HTTP are refused when a live one has the same nonce.
CREATE INDEX orders_by_nonce ON orders (payer, token, keeper_id, nonce);

-- A node's evidence: one inference.
CREATE TABLE completions (
    settlement_id    {BYTES} PRIMARY KEY,
    -- The order it answers; NULL while none is known.
    order_id         {BYTES},
    node_id          {BYTES} NOT NULL,
    node_version     BIGINT  NOT NULL,
    request_hash     {BYTES} NOT NULL,
    output_hash      {BYTES} NOT NULL,
    timestamp        BIGINT  NOT NULL,
    signature        {BYTES} NOT NULL,
    -- The answer text, erased when the order is terminal.
    output           {BYTES},
    -- The node's whole response body, replayed to a caller that asks again; erased with the output.
    response         {BYTES},
    meter_signature  {BYTES},
    meter_offset     TEXT,
    amount           TEXT,
    input_tokens     BIGINT,
    output_tokens    BIGINT,
    -- Rates of the card used, token units per million tokens, and the card's version.
    input_rate       TEXT,
    output_rate      TEXT,
    rate_card        TEXT,
    -- verified, matched, orphaned
    state            TEXT    NOT NULL,
    -- private, due, submitted, recorded, refused
    record_state     TEXT    NOT NULL,
    record_tx        BIGINT,
    -- Recording transactions that ended without recording it, and when the next one may be queued.
    record_attempts  BIGINT  NOT NULL DEFAULT 0,
    record_next_ms   BIGINT  NOT NULL DEFAULT 0,
    -- Evidence on OpenGradient.
    og_tx_hash       {BYTES},
    og_block         BIGINT,
    created_ms       BIGINT  NOT NULL
);
-- The completion of an order that is matched is found through its receipt.
CREATE INDEX completions_unmatched ON completions (order_id) WHERE state IN ('verified', 'orphaned');
CREATE INDEX completions_waiting ON completions (request_hash) WHERE state = 'verified';
CREATE INDEX completions_to_orphan ON completions (created_ms) WHERE state = 'verified';
CREATE INDEX completions_to_record ON completions (created_ms) WHERE record_state = 'due';
CREATE INDEX completions_to_record_again ON completions (record_next_ms) WHERE record_state = 'due' AND record_attempts > 0;
CREATE INDEX completions_submitted ON completions (created_ms) WHERE record_state = 'submitted';
CREATE INDEX completions_to_erase ON completions (created_ms) WHERE state = 'orphaned' AND output IS NOT NULL;

-- A matched (order, completion): one per order, one per completion. The leaf of a batch or a verified settlement.
CREATE TABLE receipts (
    settlement_id    {BYTES} PRIMARY KEY,
    order_id         {BYTES} NOT NULL UNIQUE,
    payer            {BYTES} NOT NULL,
    token            {BYTES} NOT NULL,
    node_id          {BYTES} NOT NULL,
    amount           TEXT    NOT NULL,
    receipt_hash     {BYTES} NOT NULL,
    -- matched, batched, settled, skipped
    state            TEXT    NOT NULL,
    -- batch or verified
    path             TEXT    NOT NULL,
    skip_reason      TEXT,
    batch_id         BIGINT,
    -- Index in the call's rows.
    batch_index      BIGINT,
    -- Number among captured rows (the leaf's row); known once included.
    leaf_row         BIGINT,
    -- Transaction that settles it: verified path.
    tx_id            BIGINT,
    fee              TEXT,
    -- Evidence on Base, verified path (a batch has its own).
    base_tx_hash     {BYTES},
    base_block       BIGINT,
    base_block_hash  {BYTES},
    -- 0 to be done (verified path), 1 done, 2 not wanted or given up.
    delivered        BIGINT  NOT NULL,
    deliver_attempts BIGINT  NOT NULL,
    -- The last delivery queued.
    deliver_tx       BIGINT,
    -- How often a skipped row was tried again, and when the next try (settlement or delivery) is due.
    retries          BIGINT  NOT NULL DEFAULT 0,
    retry_ms         BIGINT  NOT NULL DEFAULT 0,
    created_ms       BIGINT  NOT NULL
);
CREATE INDEX receipts_to_settle ON receipts (path, created_ms) WHERE state = 'matched';
CREATE INDEX receipts_batched ON receipts (created_ms) WHERE state = 'batched';
CREATE INDEX receipts_skipped ON receipts (created_ms) WHERE state = 'skipped';
CREATE INDEX receipts_to_deliver ON receipts (created_ms) WHERE state = 'settled' AND path = 'verified' AND delivered = 0;
CREATE INDEX receipts_by_batch ON receipts (batch_id, batch_index) WHERE batch_id IS NOT NULL;
CREATE INDEX receipts_by_payer ON receipts (payer, created_ms);
CREATE INDEX receipts_by_time ON receipts (created_ms, settlement_id);

CREATE TABLE batches (
    batch_id         {ID},
    keeper_id        {BYTES} NOT NULL,
    token            {BYTES} NOT NULL,
    n                BIGINT  NOT NULL,
    -- frozen, submitted, included, safe, finalised, paid, empty, quarantined
    state            TEXT    NOT NULL,
    tx_id            BIGINT,
    finalize_tx_id   BIGINT,
    -- From BatchSettled.
    chain_batch_id   BIGINT,
    record           {BYTES},
    receipts_root    {BYTES},
    settled_at       BIGINT,
    base_tx_hash     {BYTES},
    base_block       BIGINT,
    base_block_hash  {BYTES},
    created_ms       BIGINT  NOT NULL
);
CREATE INDEX batches_by_state ON batches (state, created_ms);
CREATE INDEX batches_by_chain ON batches (chain_batch_id);

-- Challenges against rows of any keeper's batch, and rows that are void as duplicates.
CREATE TABLE challenges (
    -- The ledger's number.
    chain_batch_id   BIGINT  NOT NULL,
    -- Number among captured rows.
    leaf_row         BIGINT  NOT NULL,
    challenger       {BYTES} NOT NULL,
    unit             TEXT    NOT NULL,
    -- Wei.
    bond             TEXT    NOT NULL,
    -- Unix seconds; 0 for a row that was void before anyone challenged it.
    deadline         BIGINT  NOT NULL,
    -- open, answered, unproven, duplicate
    state            TEXT    NOT NULL,
    answer_tx_id     BIGINT,
    resolve_tx_id    BIGINT,
    -- When we found that we hold no receipt for it, unix milliseconds.
    looked_ms        BIGINT  NOT NULL DEFAULT 0,
    PRIMARY KEY (chain_batch_id, leaf_row)
);
CREATE INDEX challenges_by_state ON challenges (state, deadline);

-- Batches that were looked behind.
CREATE TABLE watched (
    -- The ledger's number as 32 bytes.
    batch_topic      {BYTES} PRIMARY KEY,
    finding          TEXT    NOT NULL,
    created_ms       BIGINT  NOT NULL
);

-- Outbox of published rows, written with the batch.
CREATE TABLE publications (
    batch_id         BIGINT  PRIMARY KEY,
    -- keccak256 of the content, the batch's blob id on Base.
    hash             {BYTES} NOT NULL,
    -- NULL once the place has it.
    content          {BYTES},
    -- Path, URL or Walrus blob id; NULL until published.
    place            TEXT,
    attempts         BIGINT  NOT NULL,
    next_ms          BIGINT  NOT NULL
);
CREATE INDEX publications_due ON publications (batch_id) WHERE place IS NULL;

-- A transaction is what must happen; an attempt is one signed envelope of it. The nonce lives here and nowhere else.
CREATE TABLE txs (
    tx_id            {ID},
    chain_id         BIGINT  NOT NULL,
    -- settle_batch, settle_verified, finalize, deliver, reclaim, record, noop
    kind             TEXT    NOT NULL,
    -- Unique name of the intent, so that it is queued once.
    intent_key       TEXT    NOT NULL UNIQUE,
    target           {BYTES} NOT NULL,
    calldata         {BYTES} NOT NULL,
    -- Wei that go with it, decimal text.
    value            TEXT    NOT NULL,
    -- queued, signed, sent, included, done, failed, quarantined, obsolete
    state            TEXT    NOT NULL,
    signer           {BYTES},
    nonce            BIGINT,
    gas_limit        BIGINT,
    reason           TEXT,
    -- From the canonical receipt.
    tx_hash          {BYTES},
    block_number     BIGINT,
    block_hash       {BYTES},
    gas_used         BIGINT,
    effective_price  TEXT,
    success          BIGINT,
    created_ms       BIGINT  NOT NULL,
    updated_ms       BIGINT  NOT NULL
);
CREATE UNIQUE INDEX txs_by_nonce ON txs (chain_id, signer, nonce);
CREATE INDEX txs_by_state ON txs (chain_id, state, tx_id);

CREATE TABLE attempts (
    tx_hash          {BYTES} PRIMARY KEY,
    tx_id            BIGINT  NOT NULL,
    raw              {BYTES} NOT NULL,
    max_fee          TEXT    NOT NULL,
    tip              TEXT    NOT NULL,
    created_ms       BIGINT  NOT NULL,
    broadcast_ms     BIGINT,
    last_error       TEXT
);
CREATE INDEX attempts_by_tx ON attempts (tx_id, created_ms);

-- Canonical logs of our contracts, applied in the transaction that moved the cursor.
CREATE TABLE events (
    chain_id         BIGINT  NOT NULL,
    block_number     BIGINT  NOT NULL,
    log_index        BIGINT  NOT NULL,
    block_hash       {BYTES} NOT NULL,
    tx_hash          {BYTES} NOT NULL,
    contract         {BYTES} NOT NULL,
    seq              BIGINT  NOT NULL,
    name             TEXT    NOT NULL,
    topics           {BYTES} NOT NULL,
    -- Second topic: order, batch, settlement or node id, or an account. 32 zero bytes if there is none.
    topic1           {BYTES} NOT NULL,
    data             {BYTES} NOT NULL,
    -- Block time, unix seconds.
    timestamp        BIGINT  NOT NULL,
    PRIMARY KEY (chain_id, block_number, log_index)
);
CREATE UNIQUE INDEX events_by_seq ON events (chain_id, contract, seq);
CREATE INDEX events_by_topic ON events (topic1, name);
CREATE INDEX events_by_name ON events (chain_id, name, block_number);
CREATE INDEX events_by_tx ON events (tx_hash);
-- Batches whose window may be open, however many there were.
CREATE INDEX events_of_batches ON events (timestamp) WHERE name = 'BatchSettled';

-- Hash-linked window of blocks that are not final.
CREATE TABLE blocks (
    chain_id         BIGINT  NOT NULL,
    number           BIGINT  NOT NULL,
    hash             {BYTES} NOT NULL,
    parent           {BYTES} NOT NULL,
    timestamp        BIGINT  NOT NULL,
    PRIMARY KEY (chain_id, number)
);

CREATE TABLE cursors (
    chain_id         BIGINT  PRIMARY KEY,
    number           BIGINT  NOT NULL,
    hash             {BYTES} NOT NULL,
    timestamp        BIGINT  NOT NULL,
    safe_number      BIGINT  NOT NULL,
    finalized_number BIGINT  NOT NULL,
    updated_ms       BIGINT  NOT NULL
);

-- Caches of escrow state, rebuilt from the chain after a reorganisation.
CREATE TABLE accounts (
    owner            {BYTES} NOT NULL,
    token            {BYTES} NOT NULL,
    free             TEXT    NOT NULL,
    held             TEXT    NOT NULL,
    PRIMARY KEY (owner, token)
);

-- One lane per (payer, token, keeper): the lock, and what orders we acknowledged have reserved of lock and credit.
CREATE TABLE lanes (
    payer            {BYTES} NOT NULL,
    token            {BYTES} NOT NULL,
    keeper_id        {BYTES} NOT NULL,
    locked           TEXT    NOT NULL,
    until            BIGINT  NOT NULL,
    reserved         TEXT    NOT NULL,
    PRIMARY KEY (payer, token, keeper_id)
);

-- Spent order nonces of a lane, 256 to a row: bit i of `bits` (big-endian) is nonce word × 256 + i.
CREATE TABLE nonce_words (
    payer            {BYTES} NOT NULL,
    token            {BYTES} NOT NULL,
    keeper_id        {BYTES} NOT NULL,
    word             {BYTES} NOT NULL,
    bits             {BYTES} NOT NULL,
    PRIMARY KEY (payer, token, keeper_id, word)
);

-- Node versions from the registry on Base, and where OpenGradient's registry says to reach them.
CREATE TABLE nodes (
    node_id          {BYTES} PRIMARY KEY,
    version          BIGINT  NOT NULL,
    label            TEXT    NOT NULL,
    operator         {BYTES} NOT NULL,
    payout           {BYTES} NOT NULL,
    registered_at    BIGINT  NOT NULL,
    retired_at       BIGINT  NOT NULL,
    revoked_at       BIGINT  NOT NULL,
    endpoint         TEXT
);
CREATE TABLE node_versions (
    node_id          {BYTES} NOT NULL,
    version          BIGINT  NOT NULL,
    verifier         {BYTES} NOT NULL,
    meter_key        {BYTES} NOT NULL,
    label            TEXT    NOT NULL,
    created_at       BIGINT  NOT NULL,
    replaced_at      BIGINT  NOT NULL,
    public_key       {BYTES} NOT NULL,
    PRIMARY KEY (node_id, version)
);

-- Roles of keepers that share a database (owner '' for a role given back); the epoch fences every guarded update.
CREATE TABLE leases (
    name             TEXT    PRIMARY KEY,
    owner            TEXT    NOT NULL,
    epoch            BIGINT  NOT NULL,
    -- Counted up by its holder: others see by it that the holder lives. No clocks are compared.
    beat             BIGINT  NOT NULL
);

-- API keys, hashed.
CREATE TABLE api_keys (
    key_hash         {BYTES} PRIMARY KEY,
    name             TEXT    NOT NULL,
    scopes           TEXT    NOT NULL,
    created_ms       BIGINT  NOT NULL,
    revoked_ms       BIGINT
);

-- What callers have used of their rates: their bucket is full again at `full_at_ns`, unix nanoseconds.
CREATE TABLE limits (
    -- route:kind, as in `orders:payer`
    scope            TEXT    NOT NULL,
    -- Account, key hash or IP address, padded to 32 bytes.
    subject          {BYTES} NOT NULL,
    full_at_ns       BIGINT  NOT NULL,
    PRIMARY KEY (scope, subject)
);
CREATE INDEX limits_by_time ON limits (full_at_ns);
