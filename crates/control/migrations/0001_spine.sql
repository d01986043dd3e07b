CREATE TABLE projects (
    id TEXT PRIMARY KEY NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY NOT NULL,
    project TEXT NOT NULL REFERENCES projects (id),
    sha256 TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT
);

-- What is given out can never exceed what a node has: not by a race, not by a defect.
CREATE TABLE nodes (
    id TEXT PRIMARY KEY NOT NULL,
    tunnel TEXT NOT NULL,
    acceleration TEXT NOT NULL,
    profiles TEXT NOT NULL,
    images TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib BIGINT NOT NULL,
    vcpus_used BIGINT NOT NULL DEFAULT 0,
    memory_used_mib BIGINT NOT NULL DEFAULT 0,
    disk_used_gib BIGINT NOT NULL DEFAULT 0,
    generation BIGINT NOT NULL,
    last_seen_ms BIGINT NOT NULL,
    CHECK (vcpus_used >= 0 AND vcpus_used <= vcpus),
    CHECK (memory_used_mib >= 0 AND memory_used_mib <= memory_mib),
    CHECK (disk_used_gib >= 0 AND disk_used_gib <= disk_gib)
);

CREATE TABLE instances (
    id TEXT PRIMARY KEY NOT NULL,
    project TEXT NOT NULL REFERENCES projects (id),
    version BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    power_generation BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    power TEXT NOT NULL CHECK (power IN ('running', 'stopped', 'deleted')),
    shape TEXT NOT NULL,
    image TEXT NOT NULL,
    profile TEXT NOT NULL,
    volume TEXT NOT NULL UNIQUE,
    volume_gib BIGINT NOT NULL,
    node TEXT REFERENCES nodes (id),
    compute_held BIGINT NOT NULL CHECK (compute_held IN (0, 1)),
    address BIGINT,
    mac TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    failure TEXT,
    secrets TEXT NOT NULL,
    metadata TEXT NOT NULL,
    observed_generation BIGINT NOT NULL DEFAULT 0,
    observed_epoch BIGINT NOT NULL DEFAULT 0,
    observed_phase TEXT,
    observed_failure TEXT,
    observed_boot TEXT,
    observed_phases TEXT NOT NULL DEFAULT '[]',
    observed_ms BIGINT NOT NULL DEFAULT 0,
    UNIQUE (node, address),
    UNIQUE (node, mac),
    CHECK (node IS NOT NULL OR compute_held = 0),
    CHECK ((node IS NULL) = (address IS NULL))
);

CREATE INDEX instances_listing ON instances (project, created_ms, id);

CREATE TABLE mailboxes (
    instance TEXT PRIMARY KEY NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    project TEXT NOT NULL,
    boot TEXT NOT NULL,
    guest_seq BIGINT NOT NULL,
    guest_body TEXT NOT NULL,
    guest_ms BIGINT NOT NULL,
    broker_seq BIGINT NOT NULL DEFAULT 0,
    broker_answers BIGINT NOT NULL DEFAULT 0,
    broker_body TEXT
);

CREATE INDEX mailboxes_project ON mailboxes (project);

CREATE TABLE idempotency (
    api_key TEXT NOT NULL REFERENCES api_keys (id),
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status BIGINT NOT NULL,
    body TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (api_key, name)
);

CREATE INDEX idempotency_age ON idempotency (created_ms);

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY NOT NULL,
    at_ms BIGINT NOT NULL,
    request TEXT,
    actor TEXT NOT NULL,
    event TEXT NOT NULL
);
