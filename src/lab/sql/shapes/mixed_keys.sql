ALTER TABLE mixed.wide ADD PRIMARY KEY (id);
CREATE INDEX wide_account ON mixed.wide (account);
CREATE INDEX wide_created_at ON mixed.wide (created_at);
CREATE INDEX wide_kind_amount ON mixed.wide (kind, amount);
ALTER TABLE mixed.narrow ADD PRIMARY KEY (id);
ALTER TABLE mixed.documents ADD PRIMARY KEY (id);
