-- What a ready guest says is wrong with it: a JSON list of reason and since when.
ALTER TABLE instances ADD COLUMN observed_degraded TEXT NOT NULL DEFAULT '[]';
