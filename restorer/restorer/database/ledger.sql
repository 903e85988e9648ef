-- The ledger of database-restore-operator: what each run has done, committed together with the rows it tells of.
-- {schema} stands for the quoted schema name (ledger.schema, "dbrestore" unless told otherwise).
-- Every table has a primary key: a publication FOR ALL TABLES keeps rows from being deleted from one without.
CREATE SCHEMA IF NOT EXISTS {schema};

-- One row per run. A finished run is final: its report is here.
CREATE TABLE IF NOT EXISTS {schema}.runs (
    run          text PRIMARY KEY,
    spec_hash    text NOT NULL,
    spec         jsonb NOT NULL,
    snapshot     text NOT NULL,
    fingerprint  jsonb NOT NULL,
    bytes        bigint NOT NULL,
    state        text NOT NULL DEFAULT 'Running' CHECK (state IN ('Running', 'Succeeded', 'Failed', 'Cancelled')),
    marks        text[] NOT NULL DEFAULT '{{}}',
    warnings     text[] NOT NULL DEFAULT '{{}}',
    attempts     integer NOT NULL DEFAULT 1,
    retries      bigint NOT NULL DEFAULT 0,
    retain_days  integer NOT NULL DEFAULT 30,
    report       jsonb,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz
);

-- Processes that work on a run. Dead when the lease is over by the database's clock, or when the backend is gone.
CREATE TABLE IF NOT EXISTS {schema}.owners (
    owner         text PRIMARY KEY,
    run           text NOT NULL,
    host          text NOT NULL,
    backend_pid   integer NOT NULL,
    backend_start text NOT NULL,
    lease_until   timestamptz NOT NULL
);

-- The one active run of this database.
CREATE TABLE IF NOT EXISTS {schema}.target (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    run    text NOT NULL,
    owner  text NOT NULL,
    since  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row per table of a run, in the order of loading.
CREATE TABLE IF NOT EXISTS {schema}.tables (
    run        text NOT NULL REFERENCES {schema}.runs ON DELETE CASCADE,
    name       text NOT NULL,
    position   integer NOT NULL,
    grp        integer NOT NULL,
    after      integer[] NOT NULL,
    bytes      bigint NOT NULL,
    was_empty  boolean NOT NULL,
    file       text NOT NULL,
    keys       jsonb NOT NULL,
    split      boolean NOT NULL,
    settled    boolean NOT NULL DEFAULT false,
    expected   bigint,
    error      text NOT NULL DEFAULT '',
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (run, name)
);

-- One row per table file, or per segment of a large one. next_offset moves by compare-and-swap, with the rows.
CREATE TABLE IF NOT EXISTS {schema}.tasks (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run           text NOT NULL,
    table_name    text NOT NULL,
    start_offset  bigint NOT NULL,
    stop_offset   bigint,
    next_offset   bigint NOT NULL,
    next_ordinal  bigint NOT NULL,
    state         text NOT NULL DEFAULT 'Ready' CHECK (state IN ('Ready', 'Done', 'Failed')),
    owner         text,
    read          bigint NOT NULL DEFAULT 0,
    inserted      bigint NOT NULL DEFAULT 0,
    updated       bigint NOT NULL DEFAULT 0,
    duplicate     bigint NOT NULL DEFAULT 0,
    conflict      bigint NOT NULL DEFAULT 0,
    rejected      bigint NOT NULL DEFAULT 0,
    deferred      bigint NOT NULL DEFAULT 0,
    batches       jsonb NOT NULL DEFAULT '{{}}',
    records       jsonb NOT NULL DEFAULT '{{}}',
    seconds       double precision NOT NULL DEFAULT 0,
    UNIQUE (run, table_name, start_offset),
    FOREIGN KEY (run, table_name) REFERENCES {schema}.tables ON DELETE CASCADE,
    CHECK (read = inserted + updated + duplicate + conflict + rejected + deferred)
);

-- Records that were not loaded, whole, with the reason. They may hold personal data: see retention and purge.
CREATE TABLE IF NOT EXISTS {schema}.rejects (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run             text NOT NULL REFERENCES {schema}.runs ON DELETE CASCADE,
    table_name      text NOT NULL,
    ordinal         bigint NOT NULL,
    byte_offset     bigint NOT NULL,
    record          bytea NOT NULL,
    reason          text NOT NULL,
    sqlstate        text NOT NULL DEFAULT '',
    constraint_name text NOT NULL DEFAULT '',
    column_name     text NOT NULL DEFAULT '',
    message         text NOT NULL DEFAULT '',
    attempts        integer NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS rejects_run ON {schema}.rejects (run, table_name, ordinal);

-- Records that wait: for parents in the same cycle of foreign keys, or, in a file that is loaded in segments, until it is
-- known which of several records with one key comes first. Empty again when the table is settled. They come by the hundred
-- thousand: no foreign key is looked up for each (whoever deletes a run deletes them too), and no time spent on making them smaller.
CREATE TABLE IF NOT EXISTS {schema}.deferred (
    run         text NOT NULL,
    task        bigint NOT NULL,
    table_name  text NOT NULL,
    ordinal     bigint NOT NULL,
    byte_offset bigint NOT NULL,
    record      bytea NOT NULL,
    PRIMARY KEY (run, table_name, ordinal)
) WITH (toast_tuple_target = 8160);

-- Hashes of the keys that waiting rows have: a later row with one of them waits behind them. As many. The index begins with what is
-- quickest to compare, and holds all that is asked for, or the whole table would be read for each batch.
CREATE TABLE IF NOT EXISTS {schema}.waiting_keys (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    run         text NOT NULL,
    table_name  text NOT NULL,
    key         bigint NOT NULL,
    PRIMARY KEY (key, run, table_name, id)
);

-- What one transaction wrote of a file that is loaded in segments: the row here and the rows of the table have the same xmin.
-- Empty again when the table is settled.
CREATE TABLE IF NOT EXISTS {schema}.origins (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run          text NOT NULL,
    table_name   text NOT NULL,
    task         bigint NOT NULL REFERENCES {schema}.tasks ON DELETE CASCADE,
    start_offset bigint NOT NULL,
    stop_offset  bigint NOT NULL,
    ordinal      bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS origins_run ON {schema}.origins (run, table_name);

-- How far the run was at one moment: every few seconds, and whenever a table is complete.
CREATE TABLE IF NOT EXISTS {schema}.samples (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run       text NOT NULL REFERENCES {schema}.runs ON DELETE CASCADE,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    bytes     bigint NOT NULL,
    read      bigint NOT NULL,
    rejected  bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS samples_run ON {schema}.samples (run, at);
