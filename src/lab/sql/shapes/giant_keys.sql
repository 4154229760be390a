ALTER TABLE giant.events ADD PRIMARY KEY (id);
CREATE INDEX events_account ON giant.events (account);
CREATE INDEX events_created_at ON giant.events (created_at);
CREATE INDEX events_kind_amount ON giant.events (kind, amount);
CREATE INDEX events_channel_region ON giant.events ((details ->> 'channel'), region) WHERE quantity IS NOT NULL;
