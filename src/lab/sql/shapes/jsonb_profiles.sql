INSERT INTO jsonb.profiles
SELECT i, jsonb_build_object('name', 'profile ' || i, 'active', i % 3 > 0, 'settings',
    (SELECT jsonb_object_agg('setting ' || n, md5(i || '.' || n)) FROM generate_series(1, 40 + i % 5 * 20) AS n))
FROM generate_series($first::bigint, $last) AS i
