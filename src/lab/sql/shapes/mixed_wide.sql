INSERT INTO mixed.wide
SELECT i, md5('account ' || i * 7919 % 500000)::uuid,
    (ARRAY['order', 'refund', 'transfer', 'fee', 'deposit'])[1 + (i * 31 + i / 7) % 5],
    (i * 104729 % 99999999) / 100.0,
    CASE WHEN i % 3 > 0 THEN (i * 15485863 % 1000003) / 1000003.0 END,
    jsonb_build_object('ref', md5('ref ' || i), 'channel', 'c' || i % 12, 'items', jsonb_build_array(i % 97, i % 89, i % 83),
        'ok', i % 10 > 0),
    CASE i % 4 WHEN 0 THEN NULL ELSE ARRAY['t' || i % 50, 'u' || i % 7] END,
    ARRAY[(i % 1000)::integer, (i * 7 % 1000)::integer, (i * 13 % 1000)::integer],
    '2020-01-01Z'::timestamptz + i * 7 % 150000000 * interval '1.000001 second',
    CASE WHEN i % 5 = 0 THEN timestamp '2024-01-01' + i % 9999999 * interval '1 millisecond' END,
    CASE WHEN i % 2 = 0 THEN 'note ' || md5('note ' || i) END
FROM generate_series($first::bigint, $last) AS i
