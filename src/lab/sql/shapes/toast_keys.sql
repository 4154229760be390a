ALTER TABLE toast.texts ADD PRIMARY KEY (id);
ALTER TABLE toast.files ADD PRIMARY KEY (id);
ALTER TABLE toast.pictures ADD PRIMARY KEY (id);
