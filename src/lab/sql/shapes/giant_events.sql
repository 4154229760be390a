INSERT INTO giant.events
SELECT i, md5('account ' || i * 7919 % 300000)::uuid,
    '2021-01-01Z'::timestamptz + i * 11 % 120000000 * interval '1.000001 second',
    (i * 31 + i / 7) % 40, i * 17 % 250, CASE WHEN i % 6 > 0 THEN i * 13 % 900 END,
    (i * 104729 % 99999999) / 100.0,
    jsonb_build_object('ref', i * 15485863 % 1000000007, 'channel', 'c' || i % 12, 'ok', i % 10 > 0),
    CASE WHEN i % 8 > 0 THEN 'note ' || md5('note ' || i) || repeat(' as agreed', (i % 7)::integer) || ' ' || md5(i || ' note') END
FROM generate_series($first::bigint, $last) AS i
