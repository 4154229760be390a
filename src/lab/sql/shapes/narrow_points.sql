INSERT INTO narrow.points
SELECT i, i * 7919 % 2000000, CASE WHEN i % 9 > 0 THEN i * 104729 % 1000000007 END
FROM generate_series($first::bigint, $last) AS i
