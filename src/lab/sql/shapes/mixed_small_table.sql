CREATE TABLE mixed.small_$table (
    id integer PRIMARY KEY,
    parent integer,
    code text NOT NULL,
    value numeric(10, 3),
    flag boolean,
    made_on date
);
