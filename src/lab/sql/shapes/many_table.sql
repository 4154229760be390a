CREATE TABLE many.t_$n (
    id $id PRIMARY KEY,
    parent integer,
    code text NOT NULL,
    value numeric(10, 3),
    flag boolean,
    made_on date
);
INSERT INTO many.t_$n (parent, code, value, flag, made_on$and_id)
SELECT 1 + i * 31 % $parents, md5('$n ' || i), i * 37 % 100000 / 7.0, i % 3 = 0, date '2020-01-01' + i % 2000$and_i
FROM generate_series(1, $rows) AS i;
