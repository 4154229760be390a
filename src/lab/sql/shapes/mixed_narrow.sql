INSERT INTO mixed.narrow
SELECT i, i * 7919 % 2000000, CASE WHEN i % 9 > 0 THEN i * 104729 % 1000000007 END,
    '2022-01-01Z'::timestamptz + i * interval '1.5 second'
FROM generate_series($first::bigint, $last) AS i
