-- Guest policy and ID block of an SNP launch, JSON.
ALTER TABLE instances ADD COLUMN launch TEXT;

-- A host's processor has keys for so many guests of a kind only: SNP address space ids, TDX key ids, enclave memory.
-- `slots` is what is offered, or what is booked where that is more.
CREATE TABLE node_slots (
    node TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    profile TEXT NOT NULL,
    offered BIGINT NOT NULL,
    slots BIGINT NOT NULL,
    used BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (node, profile),
    CHECK (used >= 0 AND used <= slots)
);

-- What the node offers of them, as it said it last: JSON.
ALTER TABLE nodes ADD COLUMN tees TEXT NOT NULL DEFAULT '[]';
