INSERT INTO mixed.documents
SELECT i, 'document ' || i,
    (SELECT string_agg(md5(i || '.' || n), '') FROM generate_series(1, 150 + i % 10 * 60) AS n),
    CASE WHEN i % 2 = 0 THEN
        (SELECT decode(string_agg(md5(i || '-' || n), ''), 'hex') FROM generate_series(1, 300 + i % 7 * 100) AS n) END
FROM generate_series($first::bigint, $last) AS i
