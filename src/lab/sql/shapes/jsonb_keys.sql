ALTER TABLE jsonb.orders ADD PRIMARY KEY (id);
ALTER TABLE jsonb.profiles ADD PRIMARY KEY (id);
CREATE INDEX orders_state_ref ON jsonb.orders ((doc ->> 'state'), (doc ->> 'ref'));
CREATE INDEX orders_customer ON jsonb.orders USING gin ((doc -> 'customer') jsonb_path_ops);
