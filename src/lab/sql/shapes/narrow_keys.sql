ALTER TABLE narrow.points ADD PRIMARY KEY (id);
