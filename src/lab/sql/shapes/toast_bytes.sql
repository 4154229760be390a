INSERT INTO toast.$table
SELECT i, '$table ' || i,
    (SELECT string_agg(sha512(int8send(i * 100000 + n)), '') FROM generate_series(1, 50 + i % 13 * 70) AS n)
FROM generate_series($first::bigint, $last) AS i
